/* Files for Train and Choose, uploaded in pieces: larger than an image may be, a file is refused. `upload` is Gradio's. */
async function inPieces(file, { megabytes, piece, missing, instead }, tell) {
  if (!file) throw new Error(missing);
  if (file.size > megabytes * 1e6) throw new Error(`This file has ${Math.ceil(file.size / 1e6)} MB; the limit here is ${megabytes} MB. ${instead}`);
  if (!file.size) throw new Error("This file is empty.");
  const pieces = [];
  for (let start = 0; start < file.size; start += piece) {
    tell(`Uploading: ${Math.round((start / file.size) * 100)}%`);
    const part = new File([file.slice(start, start + piece)], "photos.part");
    try {
      pieces.push((await upload(part)).path);
    } catch {
      throw new Error("The file could not be uploaded. Try again.");
    }
  }
  return { name: file.name, pieces };
}
