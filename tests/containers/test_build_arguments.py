"""The arguments of the build: a base that is pinned by its digest, and optional features."""

import json
import secrets

import httpx
from compose_project import BASE_IMAGE, REPOSITORY, MakeProject, Project

EXTRAS = sorted(path.stem for path in (REPOSITORY / "requirements/extras").glob("*.txt"))


def digest_of_the_base(project: Project) -> str:
    """NAME@sha256:… of the local base image."""
    (image,) = json.loads(project.docker("image", "inspect", BASE_IMAGE))
    (digest, *_) = image["RepoDigests"]
    return str(digest)


def test_an_image_with_all_extras_on_a_pinned_base(make_project: MakeProject) -> None:
    """The image serves gRPC and has the packages of each extra. Without extras, gRPC fails."""
    project = make_project(SERVICE_BUILTIN="true")
    tag = f"resident-test-{secrets.token_hex(4)}"
    arguments = {"BASE_IMAGE": digest_of_the_base(project), "EXTRAS": " ".join(EXTRAS)}
    grpc = ("--env", "SERVICE_GRPC_PORT=9000", "--env", "SERVICE_KEYS=")
    try:
        project.build("service-environment", "resident-test-extras", **arguments)
        project.build("service", tag, **arguments)
        modules = "import cryptography, grpc, httpx, pillow_heif, pynvml, s3fs, service.tracing"
        project.docker("run", "--rm", "--entrypoint", "python", tag, "-c", modules)
        publish = ("--publish", "127.0.0.1::8000")
        project.docker("run", "--detach", "--name", tag, *grpc, *publish, tag)
        project.wait_until_ready(tag)
        answer = httpx.get(f"{project.address(tag)}/health/ready", trust_env=False)
        assert answer.status_code == httpx.codes.OK
    finally:
        project.run("docker", "rm", "--force", "--volumes", tag, check=False)
        project.run("docker", "image", "rm", tag, check=False)
    refused = project.run("docker", "run", "--rm", *grpc, "resident-service", check=False)
    assert refused.returncode == 2
