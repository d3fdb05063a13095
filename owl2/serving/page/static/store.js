// Conversations in this browser: the newest ones, with so many bytes of images. Without IndexedDB they last as long as
// the page.

const MOST_CONVERSATIONS = 50;
const MOST_BYTES = 200 * 2 ** 20;
const NAME = "conversations";

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("owl2", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(NAME, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, action) {
  const transaction = (await database()).transaction(NAME, mode);
  const request = action(transaction.objectStore(NAME));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** All conversations, the newest first. */
export async function load() {
  const found = await run("readonly", (store) => store.getAll());
  return found.sort((one, other) => other.updated - one.updated);
}

/** Saves a conversation, and removes those that there is no room for. Returns the removed. */
export async function save(conversation, all) {
  await run("readwrite", (store) => store.put(conversation));
  const removed = [];
  let bytes = 0;
  [...all].sort((one, other) => other.updated - one.updated).forEach((each, index) => {
    bytes += size(each);
    if (each !== conversation && (index >= MOST_CONVERSATIONS || bytes > MOST_BYTES)) removed.push(each);
  });
  for (const each of removed) await remove(each.id);
  return removed;
}

export async function remove(id) {
  await run("readwrite", (store) => store.delete(id));
}

function size(conversation) {
  const media = conversation.messages.flatMap((message) => message.media ?? []);
  return media.reduce((total, each) => total + each.blob.size, 0);
}
