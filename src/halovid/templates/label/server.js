// The server: questions that are asked once, and questions that are asked until they are answered.

import { showSaved } from "./notices.js";

export class ServerError extends Error {
  constructor(status, body) {
    super(body.detail || `the server answered ${status}`);
    this.status = status;
    this.task = body.task;
  }
}

export async function ask(path, body, options = {}) {
  const headers = { "Content-Type": "application/json" };
  let response, answer;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), ...options });
    answer = await response.json();
  } catch {
    throw new ServerError(503, { detail: "The server can't be reached." });
  }
  if (!response.ok) throw new ServerError(response.status, answer);
  return answer;
}

export const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const mayPass = (error) => error instanceof ServerError && error.status >= 500;

export async function insist(path, body) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 4000)) {
    try {
      return await ask(path, body);
    } catch (error) {
      if (!mayPass(error)) throw error;
      showSaved("failing", "Server not reached. Trying again…");
      await wait(pause);
    }
  }
}
