"""FastAPI alone: decode and run in its thread pool, in one or several processes."""

import functools

import anyio.to_thread
import uvicorn
from fastapi import FastAPI, Request
from user_code import PORT, WORKERS, TopClassModel, decode

app = FastAPI()


@functools.cache
def classifier() -> TopClassModel:
    """Load the model once in each serving process, but not in the supervising process."""
    return TopClassModel()


def answer(body: bytes) -> dict[str, float]:
    return classifier()([decode(body)])[0]


@app.post("/predict")
async def predict(request: Request) -> dict[str, float]:
    return await anyio.to_thread.run_sync(answer, await request.body())


if __name__ == "__main__":
    uvicorn.run("plain_fastapi:app", port=PORT, workers=WORKERS, log_level="warning")
