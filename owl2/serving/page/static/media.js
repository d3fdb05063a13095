// Images and videos that go with a message: read beside everything else, so that typing never waits for them.

const urls = new WeakMap();
const dataUrls = new WeakMap();
const VIDEO_NAME = /\.(mp4|mov|webm|mkv|avi)$/i;

/** An attachment whose `ready` is a promise: of itself, or of an error in words. */
export function attachment(file) {
  const name = file.name || "image";
  const kind = file.type.startsWith("image/") ? "image" : null;
  const isVideo = file.type.startsWith("video/") || VIDEO_NAME.test(name);
  const media = { kind: kind ?? (isVideo ? "video" : null), name, blob: file };
  return { media, ready: prepare(media) };
}

async function prepare(media) {
  if (media.kind === null) throw new Error(`${media.name} is neither an image nor a video.`);
  if (media.blob.size === 0) throw new Error(`${media.name} is empty.`);
  if (media.kind === "image") {
    const bitmap = await createImageBitmap(media.blob).catch(() => {
      throw new Error(`${media.name} cannot be read. PNG, JPEG, WebP, GIF and BMP are images this browser knows.`);
    });
    media.width = bitmap.width;
    media.height = bitmap.height;
    bitmap.close();
  }
  await dataUrl(media.blob);
  return media;
}

/** An address to show a blob by. */
export function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

function dataUrl(blob) {
  if (!dataUrls.has(blob)) {
    dataUrls.set(blob, new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result.replace(/^data:[^;,]*/, `data:${blob.type || "video/mp4"}`));
      reader.onerror = () => reject(new Error("A file cannot be read any more. Attach it again."));
      reader.readAsDataURL(blob);
    }));
  }
  return dataUrls.get(blob);
}

/** Messages as the API takes them. */
export function forServer(messages) {
  return Promise.all(messages.map(async ({ role, text, media }) => {
    if (!media?.length) return { role, content: text };
    const parts = await Promise.all(media.map(async ({ kind, blob }) => {
      const type = `${kind}_url`;
      return { type, [type]: { url: await dataUrl(blob) } };
    }));
    return { role, content: text ? [...parts, { type: "text", text }] : parts };
  }));
}
