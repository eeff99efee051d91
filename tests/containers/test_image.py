"""What the serving image contains, and what a container of it may do."""

import json

from compose_project import BASE_IMAGE, Project

from model_store import __version__

IMAGE = "resident-service"
OWN_BYTES = 201_000_000  # 400 MB on a base of 199 MB


def configuration(project: Project) -> dict[str, object]:
    """The image's configuration."""
    (image,) = json.loads(project.docker("image", "inspect", IMAGE))
    return image["Config"] | {"Size": image["Size"]}  # type: ignore[no-any-return]


def test_the_image_declares_user_entry_point_and_labels(project: Project) -> None:
    """The user is a number, the entry point has exec form, and the labels are those of OCI."""
    config = configuration(project)
    assert config["User"] == "10001:0"
    assert config["Entrypoint"] == ["python", "-m", "service"]
    labels = config["Labels"]
    assert isinstance(labels, dict)
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.licenses"] == "Apache-2.0"
    assert {f"{prefix}.{name}" for name in ("title", "description", "version", "revision")} <= set(
        labels
    )


def test_the_image_adds_at_most_201_megabytes_to_its_base(project: Project) -> None:
    base = int(project.docker("image", "inspect", "--format", "{{.Size}}", BASE_IMAGE))
    size = configuration(project)["Size"]
    assert isinstance(size, int)
    assert size - base <= OWN_BYTES


def test_the_image_has_no_tools_to_build_or_install(project: Project) -> None:
    """There is no pip, compiler, PyTorch or load generator, and no test of a dependency."""
    (container,) = project.containers()
    for command in ("pip", "pip3", "gcc", "cc", "make"):
        done = project.run("docker", "exec", container, "which", command, check=False)
        assert done.returncode != 0, command
    program = (
        "from importlib.util import find_spec as f; "
        "print([n for n in ('pip', 'setuptools', 'torch', 'training', 'service.loadtest', "
        "'numpy.tests') if f(n)])"
    )
    assert project.docker("exec", container, "python", "-c", program) == "[]"
    version = project.docker("exec", container, "python", "-m", "service", "--version")
    assert __version__ in version


def test_a_container_cannot_write_and_has_no_capability(project: Project) -> None:
    (container,) = project.containers()
    for path in ("/file", "/app/file", "/opt/resident/file", "/etc/file"):
        done = project.run("docker", "exec", container, "touch", path, check=False)
        assert done.returncode != 0, path
    status = project.docker("exec", container, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"] == "1"
    assert fields["Uid"].split() == ["10001"] * 4


def test_limits_of_memory_processes_and_temporary_files_hold(project: Project) -> None:
    """The container has the limits of MEMORY, CPUS, PIDS and TMP_SIZE."""
    (container,) = project.containers()
    limits = project.state(container, "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}")
    assert limits == f"{1024**3} 200"
    program = (
        "import os; from service.host.cpu_limit import cpu_limit; "
        "from service.host.memory_limit import memory_limit; s = os.statvfs('/tmp'); "
        "print(cpu_limit(), memory_limit(), s.f_blocks * s.f_frsize)"
    )
    seen = project.docker("exec", container, "python", "-c", program).split()
    assert seen == ["1", str(1024**3), str(32 * 1024**2)]
