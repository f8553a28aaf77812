"""Simulated motion: poses on bodies of every age, gaits, BVH files and retargeting."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.bvh import MOST_JOINTS, MOST_NESTED, load_bvh, parse_bvh
from multihmr2_ros.simulation.clips import GaitClip, MotionClip
from multihmr2_ros.simulation.gaits import GAITS, Manner
from multihmr2_ros.simulation.paths import ArcPath, MotionPath
from multihmr2_ros.simulation.pose import SEGMENTS, SIDES, Arm, Leg, Pose, Trunk, pose_from_angles
from multihmr2_ros.simulation.random_poses import LIMITS, pose_of, sample_angles, touches_itself
from multihmr2_ros.simulation.retarget import Motion, load_motion, motion_files, retarget
from multihmr2_ros.simulation.skeleton import bone_rotations

MOTIONS = Path(__file__).resolve().parents[2] / "shared" / "data" / "motions"
needs_motions = pytest.mark.skipif(not MOTIONS.is_dir(), reason="the folder of motions is not here")
AGES = (0.0, 0.2, 1 / 3, 2 / 3, 1.0)
UPRIGHT = ("stand", "walk", "run", "turn", "wave", "reach", "cheer", "sit", "sit_on_floor", "kneel")
MANNERS = [Manner(phase=phase, variant=variant, speed_mps=1.2) for phase in (0.0, 0.4) for variant in (0.05, 0.5, 0.95)]


@pytest.fixture(scope="module")
def body() -> Body:
    return Body("low")


def posed(body: Body, pose: Pose, age: float = 2 / 3) -> dict[str, np.ndarray]:
    """Bone → its head (3,), in the heading frame (x front, y left, z up), of a body that holds a pose."""
    shape = torch.full((1, 6), 0.5)
    shape[0, 1] = age
    with torch.no_grad():
        rest = body.rest_bone_poses(shape).numpy()
        rotations = bone_rotations([pose], rest, body.bone_labels, body.bone_parents)
        joints = body(shape, torch.from_numpy(rotations.astype(np.float32))).joints[0].numpy()
    return dict(zip(body.bone_labels, joints, strict=True))


def direction(joints: dict[str, np.ndarray], start: str, end: str) -> np.ndarray:
    along = joints[end] - joints[start]
    return along / np.linalg.norm(along)


def test_resting_bones_are_those_of_the_posed_body(body: Body) -> None:
    shape = torch.rand((3, 6), generator=torch.Generator().manual_seed(0))
    rest = body.rest_bone_poses(shape)
    posed_poses = body(shape, torch.eye(3).repeat(3, 163, 1, 1)).bone_poses
    torch.testing.assert_close(torch.linalg.inv(rest[:, :1]) @ rest, posed_poses, atol=1e-5, rtol=0)


@pytest.mark.parametrize("age", AGES)
def test_standing_is_upright_at_every_age(body: Body, age: float) -> None:
    joints = posed(body, pose_from_angles(Trunk(), (Arm(0, 0, 0, 0),) * 2, (Leg(),) * 2), age)
    assert direction(joints, "root", "head")[2] > 0.95
    for letter, left in (("L", 1.0), ("R", -1.0)):
        leg = direction(joints, f"upperleg01.{letter}", f"foot.{letter}")
        assert leg[2] < -0.97
        assert abs(leg[1]) < 1e-3  # in one sagittal plane
        for bones in (("upperarm01", "lowerarm01"), ("lowerarm01", "wrist")):
            hanging = direction(joints, *(f"{bone}.{letter}" for bone in bones))
            np.testing.assert_allclose(hanging, [0.0, 0.0, -1.0], atol=1e-3)
        assert joints[f"wrist.{letter}"][1] * left > 0.05
        assert joints[f"foot.{letter}"][1] * left > 0.02


RIGHT_ANGLE = np.pi / 2
# Which limb, with which angles, and where its two segments then point (x front, y to the limb's own side, z up).
ARM_CASES = [
    (Arm(0, 0, 0, RIGHT_ANGLE), (0, 0, -1), (1, 0, 0)),  # the elbow bends forward
    (Arm(RIGHT_ANGLE, 0, 0, 0), (1, 0, 0), (1, 0, 0)),  # flexion is forward
    (Arm(0, RIGHT_ANGLE, 0, 0), (0, 1, 0), (0, 1, 0)),  # abduction is away from the body
    (Arm(0, 0, RIGHT_ANGLE, RIGHT_ANGLE), (0, 0, -1), (0, -1, 0)),  # internal rotation: forearm before the belly
    (Arm(0, RIGHT_ANGLE, -RIGHT_ANGLE, RIGHT_ANGLE), (0, 1, 0), (0, 0, 1)),  # hands up
]


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize(("arm", "upper", "lower"), ARM_CASES)
def test_arms_point_where_their_angles_say(body: Body, age: float, arm: Arm, upper: tuple, lower: tuple) -> None:
    joints = posed(body, pose_from_angles(Trunk(), (arm, arm), (Leg(), Leg())), age)
    for letter, side in (("L", 1.0), ("R", -1.0)):
        mirror = np.array([1.0, side, 1.0])
        found = (
            direction(joints, f"upperarm01.{letter}", f"lowerarm01.{letter}"),
            direction(joints, f"lowerarm01.{letter}", f"wrist.{letter}"),
        )
        np.testing.assert_allclose(found, np.array([upper, lower]) * mirror, atol=2e-3)


def test_legs_point_where_their_angles_say(body: Body) -> None:
    joints = posed(body, pose_from_angles(Trunk(), (Arm(), Arm()), (Leg(1.5, 0, 0, 1.5), Leg(0, 0.5, 0, 0))))
    assert direction(joints, "upperleg01.L", "lowerleg01.L")[0] > 0.95  # hips flex forward
    assert direction(joints, "lowerleg01.L", "foot.L")[2] < -0.95  # knees bend backward
    assert direction(joints, "upperleg01.R", "foot.R")[1] == pytest.approx(-np.sin(0.5), abs=0.02)


@pytest.mark.parametrize("gait", GAITS)
def test_gaits_respect_joints(gait: str) -> None:
    for manner, time in itertools.product(MANNERS, np.linspace(0.0, 2.0, 9)):
        pose = GaitClip(gait, manner).pose(time)
        assert np.linalg.det(pose.orientation) == pytest.approx(np.ones(10), abs=1e-6)
        np.testing.assert_allclose(
            pose.orientation @ pose.orientation.swapaxes(1, 2), np.tile(np.eye(3), (10, 1, 1)), atol=1e-9
        )
        for side in SIDES:
            # The lower segment's direction in the upper one's axes: knees bend backward, elbows forward, not sideways.
            for upper, lower, forward in (("thigh", "shin", -1.0), ("upper_arm", "forearm", 1.0)):
                bent = pose[f"{side}_{upper}"].T @ -pose[f"{side}_{lower}"][:, 2]
                assert forward * bent[0] > -1e-6 or bent[2] > 0
                assert abs(bent[1]) < 1e-6


@pytest.mark.parametrize("gait", UPRIGHT)
def test_upright_gaits_have_the_head_above_the_pelvis(body: Body, gait: str) -> None:
    for manner in MANNERS[:3]:
        joints = posed(body, GaitClip(gait, manner).pose(0.3))
        assert direction(joints, "root", "head")[2] > 0.85
        assert joints["root"][2] > joints["foot.L"][2] or gait == "sit_on_floor"


def test_lying_and_crawling_are_not_upright(body: Body) -> None:
    for variant in (0.1, 0.4, 0.6, 0.9):
        joints = posed(body, GaitClip("lie", Manner(variant=variant)).pose(0.0))
        assert abs(direction(joints, "root", "head")[2]) < 0.5
    joints = posed(body, GaitClip("crawl", Manner(speed_mps=0.3)).pose(0.0))
    assert direction(joints, "root", "head")[0] > 0.8  # head first
    assert all(joints[name][2] < joints["root"][2] - 0.3 for name in ("wrist.L", "wrist.R", "foot.L", "lowerleg01.R"))


@pytest.mark.parametrize(("side", "waving", "other"), [(-1.0, "R", "L"), (1.0, "L", "R")])
def test_the_hand_that_waves_is_the_one_that_was_asked_for(body: Body, side: float, waving: str, other: str) -> None:
    joints = posed(body, GaitClip("wave", Manner(side=side)).pose(0.2))
    assert joints[f"wrist.{waving}"][2] > joints[f"upperarm01.{waving}"][2] > joints[f"wrist.{other}"][2]
    assert joints[f"wrist.{waving}"][1] * side > 0.3


@pytest.mark.parametrize(("gait", "speed", "slip"), [("walk", 0.7, 0.3), ("walk", 1.3, 0.3), ("run", 3.0, 0.35)])
def test_feet_on_the_ground_do_not_slide(body: Body, gait: str, speed: float, slip: float) -> None:
    """The slowest foot over the ground is slow, compared with the body: the median over two seconds."""
    clip = GaitClip(gait, Manner(leg_m=0.9, speed_mps=speed))
    times, step = np.arange(0.0, 1.5, 0.1), 0.01
    slowest = []
    for time in times:
        before, after = posed(body, clip.pose(time)), posed(body, clip.pose(time + step))
        moved = [
            (after[f"foot.{s}"] - after["root"] - before[f"foot.{s}"] + before["root"])[0] / step + speed for s in "LR"
        ]
        slowest.append(min(abs(value) for value in moved))
    assert np.median(slowest) < slip * speed


def test_random_poses_keep_within_limits_and_outside_the_body() -> None:
    generator = np.random.default_rng(3)
    angles = np.array([sample_angles(generator) for _ in range(100)])
    assert (angles >= LIMITS[:, 0] - 1e-9).all()
    assert (angles <= LIMITS[:, 1] + 1e-9).all()
    assert not any(touches_itself(pose_of(row)) for row in angles)
    assert angles.std(axis=0).min() > 0.02  # nothing is always the same
    crossed = pose_from_angles(Trunk(), (Arm(0, 0, 1.5, 2.0), Arm()), (Leg(), Leg()))  # the forearm through the belly
    assert touches_itself(crossed)


# A standing person, y up, facing z: T-pose; the left arm's shoulder turns about z.
RIG = """HIERARCHY
ROOT Hips {{ OFFSET 0 0 0 CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
 JOINT LeftUpLeg {{ OFFSET 10 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT LeftLeg {{ OFFSET 0 -45 0 CHANNELS 3 Zrotation Xrotation Yrotation
   JOINT LeftFoot {{ OFFSET 0 -45 0 CHANNELS 0 End Site {{ OFFSET 0 -5 15 }} }} }} }}
 JOINT RightUpLeg {{ OFFSET -10 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT RightLeg {{ OFFSET 0 -45 0 CHANNELS 3 Zrotation Xrotation Yrotation
   JOINT RightFoot {{ OFFSET 0 -45 0 CHANNELS 0 End Site {{ OFFSET 0 -5 15 }} }} }} }}
 JOINT LeftArm {{ OFFSET 18 50 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT LeftForeArm {{ OFFSET 30 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
   End Site {{ OFFSET 25 0 0 }} }} }}
 JOINT RightArm {{ OFFSET -18 50 0 CHANNELS 3 Zrotation Xrotation Yrotation
  JOINT RightForeArm {{ OFFSET -30 0 0 CHANNELS 3 Zrotation Xrotation Yrotation
   End Site {{ OFFSET -25 0 0 }} }} }}
}}
MOTION
Frames: {frames}
Frame Time: 0.05
{values}
"""
CHANNEL_NAMES = ["x", "y", "z", "hips", "left_hip", "left_knee", "right_hip", "right_knee"]
CHANNEL_NAMES += ["left_shoulder", "left_elbow", "right_shoulder", "right_elbow"]


def rig(*frames: dict[str, tuple[float, float, float]]) -> str:
    """BVH text of frames, each joint → angles about z, x, y in degrees, or position → x, y, z."""
    rows = []
    for frame in frames:
        groups = [frame.get("position", (0.0, 95.0, 0.0))] + [frame.get(name, (0.0,) * 3) for name in CHANNEL_NAMES[3:]]
        rows.append(" ".join(str(value) for group in groups for value in group))
    return RIG.format(frames=len(frames), values="\n".join(rows))


def test_bvh_joints_are_where_the_hierarchy_puts_them() -> None:
    bvh = parse_bvh(rig({}, {"left_shoulder": (90, 0, 0), "position": (1, 2, 3)}, {"hips": (0, 0, 90)}).encode())
    places = dict(zip([joint.name for joint in bvh.joints], bvh.positions().swapaxes(0, 1), strict=True))
    np.testing.assert_allclose(places["LeftForeArm"][0], [48, 145, 0])
    np.testing.assert_allclose(places["LeftForeArm"][1], [19, 82, 3], atol=1e-9)  # 90° about z: x becomes y
    np.testing.assert_allclose(places["LeftForeArm"][2], [0, 145, -48], atol=1e-9)  # 90° about y: x becomes −z


def test_retargeting_finds_directions_and_travel() -> None:
    still = {"left_knee": (0, 60, 0), "left_hip": (0, -60, 0)}  # the left thigh forward, the shin down
    motion = retarget(parse_bvh(rig(still, {**still, "position": (0, 95, 90)}).encode()))
    pose = Pose(motion.orientation[0].astype(float))
    np.testing.assert_allclose(pose["pelvis"], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(-pose["left_upper_arm"][:, 2], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(-pose["right_forearm"][:, 2], [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(-pose["left_thigh"][:, 2], [np.sin(np.pi / 3), 0, -0.5], atol=1e-6)
    np.testing.assert_allclose(-pose["left_shin"][:, 2], [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(motion.travel, [[0, 0], [1, 0]], atol=1e-6)  # 90 units are one leg, z is ahead
    assert motion.duration_s == pytest.approx(0.05)


def test_jumps_rise_and_drift_does_not() -> None:
    def lifted(heights: np.ndarray) -> np.ndarray:
        return retarget(parse_bvh(rig(*({"position": (0, 95 + height, 0)} for height in heights)).encode())).clearance

    jump = np.zeros(60)
    jump[25:32] = 30.0  # 0.35 s, a third of a leg
    assert lifted(jump).max() == pytest.approx(30 / 90 - 0.06, abs=1e-6)
    assert lifted(jump)[:20].max() == 0
    assert lifted(np.linspace(0.0, 30.0, 60)).max() < 0.1


def test_mirrored_motion_swaps_the_sides() -> None:
    motion = retarget(parse_bvh(rig({"left_shoulder": (-80, 0, 0)}, {"left_shoulder": (-80, 0, 0)}).encode()))
    plain, mirrored = (MotionClip(motion, 0.0, 0.9, mirror).pose(0.02) for mirror in (False, True))
    flip = np.diag([1.0, -1.0, 1.0])
    for one, other in (("left_upper_arm", "right_upper_arm"), ("right_shin", "left_shin"), ("pelvis", "pelvis")):
        np.testing.assert_allclose(mirrored[one], flip @ plain[other] @ flip, atol=1e-6)
    assert plain["left_upper_arm"][2, 2] > 0.9  # hanging
    assert mirrored["right_upper_arm"][2, 2] > 0.9


def walk_of(*places: tuple[float, float, float], degrees: float = 0.0) -> Motion:
    """A recording of somebody at places (x left, y up, z ahead; 90 units are a leg), who turns by degrees until the
    end; 0.05 s a frame."""
    turns = np.linspace(0.0, degrees, len(places))
    frames = ({"position": place, "hips": (0, 0, turn)} for place, turn in zip(places, turns, strict=True))
    return retarget(parse_bvh(rig(*frames).encode()))


def test_motion_paths_go_where_the_recording_goes() -> None:
    motion = walk_of((0, 95, 0), (0, 95, 90), (0, 95, 180))
    path = MotionPath(MotionClip(motion, 0.0, 0.5, False), 3.0, 4.0, np.pi / 2, at_s=0.05)
    np.testing.assert_allclose(path.position(0.05), [3.0, 4.0], atol=1e-9)
    np.testing.assert_allclose(path.position(0.07), [3.0, 4.2], atol=1e-6)
    np.testing.assert_allclose(path.position(0.02), [3.0, 3.7], atol=1e-6)


def test_recorded_walks_go_on_and_never_back() -> None:
    """One leg a frame, ahead; the last quarter of a recording this short fades into the next repetition."""
    clip = MotionClip(walk_of(*((0.0, 95.0, 90.0 * step) for step in range(21))), 0.3, 1.0, False)
    places = np.array([clip.travel(time) for time in np.linspace(0.0, 5.0, 201)])
    np.testing.assert_allclose(np.diff(places[:, 0]), 0.5, atol=1e-6)
    np.testing.assert_allclose(places[:, 1], 0.0, atol=1e-6)


def test_a_walk_that_turns_goes_on_in_a_circle() -> None:
    degrees = 90.0
    angles = np.radians(np.linspace(0.0, degrees, 41))
    corner = walk_of(*((300 * (1 - np.cos(a)), 95.0, 300 * np.sin(a)) for a in angles), degrees=degrees)
    for mirrored in (False, True):
        clip = MotionClip(corner, 0.0, 0.9, mirrored)
        centre = np.array([0.0, -3.0 if mirrored else 3.0])  # to the left
        for time in np.linspace(0.0, 12.0, 60):
            assert np.linalg.norm(clip.travel(time) - centre) == pytest.approx(3.0, abs=0.02)
            ahead = clip.travel(time + 1e-3) - clip.travel(time)
            facing = clip.pose(time)["pelvis"][:2, 0]
            assert ahead @ facing / np.linalg.norm(ahead) > 0.99


def test_repetitions_have_no_jumps() -> None:
    lifted = walk_of(*((0.0, 95.0, 9.0 * step) for step in range(31)))
    raised = retarget(parse_bvh(rig(*({"left_shoulder": (-3.0 * step, 0, 0)} for step in range(31))).encode()))
    for motion in (lifted, raised):
        clip = MotionClip(motion, 0.0, 0.9, False)
        poses = [clip.pose(time) for time in np.arange(0.0, 4.0, 0.01)]
        turns = [np.linalg.norm(b.orientation - a.orientation, axis=(1, 2)).max() for a, b in itertools.pairwise(poses)]
        assert max(turns) < 0.1  # rad; the arm's 90° take half a second at the fastest


def test_getting_up_is_undone_and_not_cut() -> None:
    lying = {"hips": (0, 90, 0)}
    rising = retarget(parse_bvh(rig({}, {"hips": (0, 45, 0)}, lying).encode()))
    clip = MotionClip(rising, 0.0, 0.9, False)
    for time in (0.01, 0.04, 0.07):
        np.testing.assert_allclose(clip.pose(0.2 - time).orientation, clip.pose(time).orientation, atol=1e-6)


GOOD = rig({}, {})
DEEP = "HIERARCHY ROOT a { OFFSET 0 0 0 CHANNELS 0 " + "JOINT b { OFFSET 0 0 0 CHANNELS 0 " * (MOST_NESTED + 5)
WIDE = "HIERARCHY ROOT a { OFFSET 0 0 0 CHANNELS 0 " + "JOINT b { OFFSET 0 0 0 CHANNELS 0 } " * (MOST_JOINTS + 5)
MALFORMED = {
    "empty": "",
    "no motion": GOOD.partition("MOTION")[0],
    "not BVH": "MOTION pictures",
    "unclosed": GOOD.replace("}\nMOTION", "\nMOTION"),
    "closed twice": GOOD.replace("}\nMOTION", "} }\nMOTION"),
    "nested too deep": DEEP + " MOTION Frames: 1 Frame Time: 0.1",
    "too many joints": WIDE + "} MOTION Frames: 1 Frame Time: 0.1",
    "offset of NaN": GOOD.replace("OFFSET 10 0 0", "OFFSET nan 0 0"),
    "offset of words": GOOD.replace("OFFSET 10 0 0", "OFFSET far away 0"),
    "endless offset": GOOD.replace("OFFSET 10 0 0", "OFFSET 1e300 0 0"),
    "channel twice": GOOD.replace("CHANNELS 3 Zrotation Xrotation", "CHANNELS 3 Zrotation Zrotation", 1),
    "unknown channel": GOOD.replace("Xposition", "Xscale"),
    "too many channels": GOOD.replace("CHANNELS 6", "CHANNELS 60000000"),
    "no frames": GOOD.replace("Frames: 2", "Frames: 0"),
    "frames below zero": GOOD.replace("Frames: 2", "Frames: -2"),
    "a billion frames": GOOD.replace("Frames: 2", "Frames: 1000000000"),
    "frames in superscript": GOOD.replace("Frames: 2", "Frames: ²"),
    "too few numbers": GOOD.replace("Frames: 2", "Frames: 3"),
    "no time": GOOD.replace("Frame Time: 0.05", "Frame Time: 0"),
    "time of NaN": GOOD.replace("Frame Time: 0.05", "Frame Time: nan"),
    "NaN among the numbers": GOOD.replace("95.0", "nan", 1),
    "infinity among the numbers": GOOD.replace("95.0", "inf", 1),
    "words among the numbers": GOOD.replace("95.0", "high", 1),
    "words after the numbers": GOOD + " the end",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_bvh(text.encode())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_broken_files_never_do_worse_than_a_user_error(data: st.DataObject) -> None:
    content = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 30)))
        pieces = st.sampled_from([b"{", b"}", b"nan", b"1e9", b"JOINT x"])
        content[start:end] = data.draw(st.binary(max_size=12) | pieces)
    message, motion = "", None
    try:
        motion = retarget(parse_bvh(bytes(content)))
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert motion is None or np.isfinite(motion.orientation).all()


def test_rigs_that_are_no_humans_are_refused() -> None:
    for text, missing in (
        (GOOD.replace("LeftLeg", "Wheel"), "left knee"),
        (GOOD.replace("RightArm", "Wing"), "right sh"),
    ):
        with pytest.raises(UserError, match=missing):
            retarget(parse_bvh(text.encode()))
    with pytest.raises(UserError, match="length"):
        retarget(parse_bvh(GOOD.replace("-45", "0").encode()))


def test_missing_and_empty_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\*\.bvh"):
        motion_files(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        load_motion(tmp_path / "none.bvh")
    (tmp_path / "bad.bvh").write_text("nothing")
    with pytest.raises(UserError, match=r"bad\.bvh"):
        load_motion(tmp_path / "bad.bvh")


# Family → a file whose person stands upright in most frames.
FAMILIES = ["deepmimic_walk", "cmu_131_01", "animateddrawings_dab", "animateddrawings_jesse_dance", "makehuman_walk1"]


@needs_motions
def test_every_recorded_motion_can_be_used() -> None:
    for path in motion_files(MOTIONS):
        motion = load_motion(path)
        assert motion.orientation.shape[1:] == (len(SEGMENTS), 3, 3)
        np.testing.assert_allclose(np.linalg.det(motion.orientation), 1.0, atol=1e-3)
        assert motion.clearance.max() < 0.9  # the highest jump is that of the spinning kick


@needs_motions
@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_people_stand_on_their_feet_and_bend_the_right_way(body: Body, name: str) -> None:
    motion: Motion = load_motion(MOTIONS / f"{name}.bvh")
    assert np.median(motion.orientation[:, 0, 2, 2]) > 0.85  # the trunk is upright
    bends = []
    for frame in motion.orientation[::10].astype(float):
        pose = Pose(frame)
        for side in SIDES:
            assert -pose[f"{side}_shin"][2, 2] < 0.9  # nobody stands on the head
            bends.append((pose[f"{side}_thigh"].T @ -pose[f"{side}_shin"][:, 2])[0])
    assert np.quantile(bends, 0.9) < 0.1  # knees bend backward


@needs_motions
@pytest.mark.parametrize("name", FAMILIES)
def test_limbs_of_the_body_point_as_the_recorded_ones(body: Body, name: str) -> None:
    """Against the file's own joints, by another way than the product's: directions between them, turned to z up."""
    bvh = load_bvh(MOTIONS / f"{name}.bvh")
    motion = load_motion(MOTIONS / f"{name}.bvh")
    names = [joint.name.lower().replace("_", "") for joint in bvh.joints]
    places = dict(zip(names, bvh.positions().swapaxes(0, 1), strict=True))
    elbow = next(name for name in ("leftforearm", "leftelbow", "loarml") if name in places)
    shoulder = next(name for name in ("leftarm", "uparml", "leftshoulder") if name in places)
    frame = len(motion.travel) // 2
    step = round(motion.frame_s / bvh.frame_s)
    recorded = (places[elbow] - places[shoulder])[frame * step]
    joints = posed(body, Pose(motion.orientation[frame].astype(float)))
    up = 2 if name in ("makehuman_walk1", "animateddrawings_dab") else 1  # the axis that is up in the file
    found = direction(joints, "upperarm01.L", "lowerarm01.L")
    assert found[2] == pytest.approx(recorded[up] / np.linalg.norm(recorded), abs=0.01)


def test_arc_paths_are_smooth_and_keep_their_speed() -> None:
    path = ArcPath(1.0, 2.0, 0.5, 1.3, 0.4, at_s=2.0)
    np.testing.assert_allclose(path.position(2.0), [1.0, 2.0])
    for time in (-1.0, 0.0, 2.0, 7.5):
        velocity = (path.position(time + 1e-5) - path.position(time - 1e-5)) / 2e-5
        heading = path.heading(time)
        np.testing.assert_allclose(velocity, 1.3 * np.array([np.cos(heading), np.sin(heading)]), atol=1e-6)
    np.testing.assert_allclose(ArcPath(0, 0, np.pi / 2, 2.0).position(3.0), [0.0, 6.0], atol=1e-9)
