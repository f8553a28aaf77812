# Copyright 2026 multihmr2_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The statements of the pages in docs/ about the node, against the node, the code and the launch files."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from test.paths import ROOT

PAGES = [ROOT / "docs" / "node.md", ROOT / "docs" / "getting-started.md", ROOT / "docs" / "viewing.md"]
NODE_PAGE, START_PAGE, _ = (page.read_text(encoding="utf-8") for page in PAGES)


def launch_arguments() -> set[str]:
    """Return the arguments in the launch files, read as text: launch is not installed everywhere."""
    texts = [path.read_text() for path in (ROOT / "launch").glob("*.launch.py")]
    declared = {name for text in texts for name in re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', text)}
    for node in ast.walk(ast.parse((ROOT / "launch" / "perception.launch.py").read_text())):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            declared |= {ast.literal_eval(key) for key in node.value.keys if key is not None}
    return declared


def table(page: str, first_heading: str) -> list[list[str]]:
    """Return the rows of the table whose first column has this heading."""
    lines = page.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {first_heading} |")) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        other = (page.parent / path) if path else page
        assert other.exists(), target
        headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target


def test_launch_arguments_on_the_pages_exist() -> None:
    text = re.sub(r"-[rp] \S+:=\S+", "", NODE_PAGE + START_PAGE)  # arguments of --ros-args
    used = set(re.findall(r"(\w+):=", text))
    assert {"checkpoint", "image", "body_prefix", "rviz"} <= used
    assert used <= launch_arguments()


def test_quoted_words_of_the_node_are_in_its_code() -> None:
    """… stands for variable text."""
    code = " ".join(path.read_text() for path in (ROOT / "multihmr2_ros").rglob("*.py"))
    code += (ROOT / "launch" / "perception.launch.py").read_text()
    code = re.sub(r'"\s*f?"', "", code)  # strings that continue on the next line
    for symptom, *_ in table(NODE_PAGE, "symptom, or message of the node"):
        for quoted in re.findall(r"`([^`]{12,})`", symptom):
            if quoted.startswith("the node is "):
                assert 'f"the node is {state}"' in code
                assert f'"{quoted.removeprefix("the node is ")}"' in code
                continue
            for part in quoted.split("…"):
                part = re.sub(r"^[ :]+|[ :]+$", "", part)
                assert part in code, quoted


def test_what_replay_records_is_published() -> None:
    recorder = (ROOT / "launch" / "replay.launch.py").read_text().partition("def recorder")[2].partition("\ndef ")[0]
    recorded = {name.replace("{NODE}", "~") for name in re.findall(r'in_namespace\(f?"([^"]+)"', recorder)}
    assert {"humans", "~/overlay/compressed"} <= recorded <= {row[0].strip("`") for row in table(NODE_PAGE, "output")}


def test_commands_that_the_pages_name_exist() -> None:
    for text in (NODE_PAGE, START_PAGE):
        for module in re.findall(r"python -m (multihmr2_ros[\w.]+)", text):
            assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    for verb in re.findall(r"^multihmr2 (\w+)", START_PAGE, re.MULTILINE):
        assert (ROOT / "multihmr2_ros" / "cli" / f"{verb}.py").is_file()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", START_PAGE, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def test_the_dockerfile_does_the_documented_steps_in_their_order() -> None:
    """Only the text is tested: the image cannot be built here."""
    section = START_PAGE.partition("## With ROS 2")[2].partition("## Without ROS 2")[0]
    steps = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[0]
    dockerfile = " ".join((ROOT / "Dockerfile").read_text().replace("\\\n", " ").split())
    documented = [line.partition("#")[0].strip() for line in steps.splitlines()]
    documented = [part.strip().removeprefix("sudo ") for line in documented for part in line.split("&&")]
    place = 0
    for step in documented:
        # Steps that only a container has: place and address of the source; and links into the source tree.
        if not step or step.startswith(("mkdir", "cd ", "git clone", "rosdep init", "source")):
            continue
        words = step.replace(" --symlink-install", "").replace("apt install", "").split()
        if words[:2] == ["rosdep", "update"]:
            words = ["rosdep update"]
        for word in [" ".join(words)] if "rosdep" in words[0] else words:
            assert word in dockerfile[place:], f"{step!r} is not in the Dockerfile, or in another order"
        place = dockerfile.index(words[0], place)
    for sourced in ("/opt/ros/jazzy/setup.bash", ".venv/bin/activate", "install/setup.bash"):
        assert f"source {sourced}" in section.replace("~/ros2_ws/", "")
        assert f"source {sourced}" in dockerfile.replace("/ros2_ws/", "")


# --- against the node


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("parameter_table")


def test_the_parameter_table_is_the_nodes(generator: ModuleType) -> None:
    assert generator.with_table(NODE_PAGE) == NODE_PAGE, "run: python scripts/parameter_table.py"
    assert len(table(NODE_PAGE, "parameter")) == len(generator.DEFAULTS)


def test_a_page_without_markers_is_refused(generator: ModuleType) -> None:
    from multihmr2_ros.errors import UserError

    for page in ("", generator.BEGIN, generator.END, generator.END + generator.BEGIN):
        with pytest.raises(UserError, match="restore them"):
            generator.with_table(page)


def test_the_topic_tables_are_the_nodes() -> None:
    rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")
    from rclpy.parameter import Parameter

    from multihmr2_ros.ros.node import PerceptionNode
    from test.helpers.ros_domain import DOMAIN_ID
    from test.helpers.stand_in_estimator import StandInEstimator

    # Topics of packages that may not be installed are in docs/navigation.md.
    optional = [Parameter(f"publish_{name}", value="never") for name in ("people", "bodies", "detections")]
    rclpy.init(domain_id=DOMAIN_ID)
    try:
        node = PerceptionNode(StandInEstimator, parameter_overrides=optional)
        ends = {
            "output": {end.topic_name: end for end in node.publishers},
            "input": {end.topic_name: end for end in node.subscriptions},
        }
        services = {service.srv_name for service in node.services}
        for heading, endpoints in ends.items():
            rows = {_full(row[0]): row for row in table(NODE_PAGE, heading)}
            compressed = {"/image/compressed"} if heading == "input" else set()
            own = {name for name in endpoints if not re.search("rosout|parameter_events|transition_event", name)}
            assert set(rows) - compressed == own
            for name in own:
                end, (_, kind, qos, _) = endpoints[name], rows[name]
                package, message = kind.strip("`").split("/")
                assert (end.msg_type.__module__.split(".")[0], end.msg_type.__name__) == (package, message)
                words = f"{end.qos_profile.reliability.name}, {end.qos_profile.durability.name}, "
                words = words.lower().replace("_", " ") if heading == "output" else "best effort, "
                assert qos == f"{words}depth {end.qos_profile.depth}", name
        for row in table(NODE_PAGE, "service"):
            assert _full(row[0]) in {_full(name) for name in services}
        assert node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


def _full(name: str) -> str:
    name = name.strip("`").replace("~", "/perception_node")
    return name if name.startswith("/") else f"/{name}"
