/** Takes a photograph: with the camera in the page or, where that is not allowed, the phone's. */

import { button, element } from "./dom.js";

const QUALITY = 0.95;

/** Take a photograph. Resolves to a file, or to null if the person cancels. */
export async function takePhoto() {
  let stream;
  try {
    // Browsers offer this on HTTPS and localhost only.
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return choosePhoto();
  }
  try {
    return await show(stream);
  } finally {
    for (const track of stream.getTracks()) track.stop();
  }
}

function choosePhoto() {
  return new Promise((resolve) => {
    element("input", {
      type: "file", accept: "image/*", capture: "environment",
      onchange: (event) => resolve(event.target.files[0] ?? null),
      oncancel: () => resolve(null),
    }).click();
  });
}

function show(stream) {
  const video = element("video", { autoplay: true, playsinline: true, "aria-label": "Camera" });
  video.muted = true;
  video.srcObject = stream;
  let photo = null;
  const dialog = element(
    "dialog", { class: "camera", "aria-label": "Take a photograph" },
    video,
    element(
      "p", { class: "actions" },
      button("Cancel", () => dialog.close()),
      button("Take the picture", async () => {
        photo = await capture(video);
        dialog.close();
      }, { class: "primary" }),
    ),
  );
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(photo);
    });
    dialog.showModal();
  });
}

async function capture(video) {
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  return new File([blob], "photograph.jpg", { type: "image/jpeg" });
}
