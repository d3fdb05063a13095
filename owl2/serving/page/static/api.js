// The server's API. Addresses are relative: the page may stand below any path of a reverse proxy.

const KEY = "owl2-key";

export class ServerError extends Error {
  constructor(message, status = 0, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export async function model() {
  const found = await (await request("v1/models")).json();
  return found.data[0];
}

export async function countTokens(messages) {
  return (await request("tokenize", { messages })).json();
}

export async function attention(body, signal) {
  return (await request("attention", body, signal)).json();
}

export async function occlusion(body, signal) {
  return (await request("attention/occlusion", body, signal)).json();
}

/** An answer as it is written: calls `onText` for each piece, and returns the reason of its end and the usage. */
export async function streamAnswer(body, signal, onText) {
  let response;
  try {
    response = await request("v1/chat/completions", body, signal);
  } catch (error) {
    if (error.param !== "max_tokens") throw error;
    // The context has less room than asked for: take what is left.
    const { count, max_model_len } = await countTokens(body.messages);
    if (count >= max_model_len) throw error;
    response = await request("v1/chat/completions", { ...body, max_tokens: max_model_len - count }, signal);
  }
  const result = { reason: null, usage: null };
  for await (const event of events(response)) {
    if (event.error) throw new ServerError(event.error.message);
    result.usage = event.usage ?? result.usage;
    for (const choice of event.choices ?? []) {
      result.reason = choice.finish_reason ?? result.reason;
      if (choice.delta.content) onText(choice.delta.content);
    }
  }
  return result;
}

async function request(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, signal, cache: "no-store" };
  if (body) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new ServerError(sentence(error.message), response.status, error.param);
  } catch {
    return new ServerError(`The server answered with status ${response.status}.`, response.status);
  }
}

function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

/** Server-sent events, until the last one that says so. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) throw new ServerError("The answer broke off: the server ended the connection.");
      buffer += value;
      const parts = buffer.split("\n\n");
      buffer = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: ?/, "");
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The answer broke off: the connection to the server was lost.");
  }
}
