"""What a user would write with FastAPI alone: decode and run in its thread pool, in one process or several."""

import functools

import anyio.to_thread
import uvicorn
from fastapi import FastAPI, Request
from user_code import PORT, WORKERS, Classifier, decode

app = FastAPI()


@functools.cache
def classifier() -> Classifier:
    """One a process that serves; the process that only watches over others has none."""
    return Classifier()


def answer(body: bytes) -> dict[str, float]:
    """In a thread of the pool."""
    return classifier()([decode(body)])[0]


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    """The body is the image."""
    return await anyio.to_thread.run_sync(answer, await request.body())


if __name__ == "__main__":
    uvicorn.run("plain_fastapi:app", port=PORT, workers=WORKERS, log_level="warning")
