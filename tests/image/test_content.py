"""What is in the image, and what is not: read from its archive, nothing is run."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import tomllib
from email.parser import Parser
from pathlib import PurePosixPath

import pytest
from archive import Image

from conftest import NATIVE, ROOT

PACKAGES = "usr/lib/python3/dist-packages"
STATUS = "var/lib/dpkg/status.d"
PROGRAMS = {"usr/bin/havip", "usr/bin/python3.11", "usr/bin/tini"}
# In no package's list of sums: what the build writes itself, beside compiled modules, and
# Debian's configuration files.
OWN = {
    "etc/debian_version",
    "etc/ethertypes",
    "etc/host.conf",
    "etc/protocols",
    "etc/rpc",
    "etc/services",
    "etc/group",
    "etc/nsswitch.conf",
    "etc/passwd",
    "etc/ssl/certs/ca-certificates.crt",
    "usr/bin/havip",
    "usr/bin/python3",
    "usr/lib/ssl/cert.pem",
    "usr/lib/ssl/certs",
    "usr/share/doc/havip/copyright",
    "usr/share/doc/havip/sbom.cdx.json",
}


@pytest.fixture(scope="module", params=["native", "foreign"])
def either(request: pytest.FixtureRequest) -> Image:
    """The image of this machine's architecture, and the other one."""
    return request.getfixturevalue("image" if request.param == "native" else "foreign_image")


def test_python_tini_and_havip_are_the_only_programs(either: Image) -> None:
    programs = {
        path
        for path, member in either.files.items()
        if member.isfile()
        and member.mode & 0o111
        and not re.search(r"/(ld-linux-|lib).*\.so", path)
    }
    assert programs == PROGRAMS
    names = {PurePosixPath(path).name for path, member in either.files.items() if member.isfile()}
    assert not names & {"sh", "bash", "dash", "busybox", "apt-get", "dpkg", "pip3", "gcc", "ld"}
    assert not any(path.startswith(f"{PACKAGES}/pip") for path in either.files)


def test_no_file_gives_rights_or_can_be_changed(either: Image) -> None:
    for path, member in either.files.items():
        assert (member.uid, member.gid) == (0, 0), path
        assert member.isdir() or member.isfile() or member.issym() or member.islnk(), path
        assert not member.mode & 0o6000, path
        if path != "tmp" and not member.issym():
            assert not member.mode & 0o022, path
        assert member.mtime == 0, path
    assert not [p for p in either.files if PurePosixPath(p).name.startswith(".wh.")]


def test_every_file_is_of_a_package(either: Image) -> None:
    """Debian's are byte for byte what Debian's packages say; Python's what their wheels say."""
    known = set(OWN)
    for path in either.files:
        if path.startswith(f"{STATUS}/"):
            known.add(path)
        if path.endswith(".md5sums"):
            for line in either.read(path).decode().splitlines():
                digest, name = line.split("  ", 1)
                known.add(name)
                member = either.files.get(name)
                if member is not None and member.isfile():
                    assert hashlib.md5(either.read(name)).hexdigest() == digest, name
        if path.endswith(".dist-info/RECORD"):
            for name, digest, _size in csv.reader(io.StringIO(either.read(path).decode())):
                known.add(f"{PACKAGES}/{name}")
                content = f"{PACKAGES}/{name}"
                if digest and content in either.files:
                    kind, _, value = digest.partition("=")
                    assert kind == "sha256"
                    assert _base64(hashlib.sha256(either.read(content)).digest()) == value, name
    # Links are in no list of sums, and what they lead to is a file like the others.
    known |= {path for path, member in either.files.items() if member.issym()}
    for path, member in either.files.items():
        compiled = re.fullmatch(r"(.*)/__pycache__/(.+)\.cpython-311\.pyc", path)
        origin = f"{compiled[1]}/{compiled[2]}.py" if compiled else path
        assert member.isdir() or origin in known, path


def test_what_python_imports_is_compiled(either: Image) -> None:
    """The root is read-only: what is not compiled now is compiled again at each start."""
    for path in either.files:
        if path.endswith(".py") and path.startswith("usr/lib/"):
            at = PurePosixPath(path)
            compiled = f"{at.parent}/__pycache__/{at.stem}.cpython-311.pyc"
            assert compiled in either.files, path
            # PEP 552: hash-based, unchecked.
            assert int.from_bytes(either.read(compiled)[4:8], "little") == 0b01, path


def test_the_dependencies_are_the_pinned_ones(either: Image) -> None:
    pinned = {
        _normal(match[1]): match[2]
        for match in re.finditer(
            r"^([\w.-]+)==(\S+) (?!; sys_platform == 'win32')",
            (ROOT / "requirements/runtime.txt").read_text(),
            re.MULTILINE,
        )
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert _python_packages(either) == pinned | {"havip": project["version"]}


def test_the_sbom_names_every_package_of_both_kinds(either: Image) -> None:
    sbom = json.loads(either.read("usr/share/doc/havip/sbom.cdx.json"))
    debian = {c["name"]: c["version"] for c in sbom["components"] if "pkg:deb/" in c["bom-ref"]}
    python = {
        _normal(c["name"]): c["version"] for c in sbom["components"] if "pkg:pypi/" in c["bom-ref"]
    }
    installed = {}
    for path, member in either.files.items():
        if path.startswith(f"{STATUS}/") and member.isfile() and not path.endswith(".md5sums"):
            fields = Parser().parsestr(either.read(path).decode())
            installed[fields["Package"]] = fields["Version"]
    assert debian == installed
    assert python | {"havip": sbom["metadata"]["component"]["version"]} == _python_packages(either)
    (system,) = (c for c in sbom["components"] if c["type"] == "operating-system")
    assert (system["name"], system["version"]) == ("debian", "12")
    refs = {sbom["metadata"]["component"]["bom-ref"], *(c["bom-ref"] for c in sbom["components"])}
    assert len(refs) == len(sbom["components"]) + 1
    for each in sbom["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= refs


def test_the_sbom_is_valid_cyclonedx(either: Image) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = either.read("usr/share/doc/havip/sbom.cdx.json").decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken = text.replace('"operating-system"', '"operating system"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_each_package_brings_its_licence(either: Image) -> None:
    for path in either.files:
        if path.startswith(f"{STATUS}/") and not path.endswith(".md5sums"):
            name = PurePosixPath(path).name
            at = f"usr/share/doc/{name}"
            if either.files[at].issym():
                at = f"usr/share/doc/{either.files[at].linkname}"
            assert f"{at}/copyright" in either.files, name


def test_the_configuration_is_what_a_runtime_needs_to_know(either: Image, image: Image) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    config = either.config["config"]
    assert config["Entrypoint"][-1] == "/usr/bin/havip"
    assert config["Cmd"] == ["run"]
    assert config["User"] == "0:0"
    assert config["Env"] == ["PATH=/usr/bin"]
    assert either.config["os"] == "linux"
    assert (either.config["architecture"] == NATIVE) == (either is image)
    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in config["Labels"].items()
        if key.startswith("org.opencontainers.image.")
    }
    assert labels["title"] == project["name"]
    assert labels["description"] == project["description"]
    assert labels["version"] == project["version"]
    assert labels["licenses"] == project["license"]
    assert re.fullmatch("[0-9a-f]{40}(-modified)?", labels["revision"])
    assert either.config["created"] == "1970-01-01T00:00:00Z"


def _python_packages(image: Image) -> dict[str, str]:
    found = {}
    for path in image.files:
        if path.endswith(".dist-info/METADATA"):
            fields = Parser().parsestr(image.read(path).decode())
            found[_normal(fields["Name"])] = fields["Version"]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _base64(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
