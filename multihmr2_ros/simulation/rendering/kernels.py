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

"""Ray casting in NVIDIA Warp, the same code for the CPU and CUDA: the first hit of a ray, and visibility of people.

All values are in the camera's optical frame, in meters, with the camera at the origin; colors are linear light. Warp
reads the annotations of these functions as its own types, which mypy does not support.
"""
# mypy: ignore-errors

import warp as wp

NO_HIT = wp.constant(0)
PERSON = wp.constant(1)
OBSTACLE = wp.constant(2)
GROUND = wp.constant(3)
WALL = wp.constant(4)
CEILING = wp.constant(5)

MAX_DISTANCE_M = wp.constant(1.0e6)
MAX_GROUND_M = wp.constant(80.0)
MIN_DISTANCE_M = wp.constant(0.02)


@wp.struct
class MeshArrays:
    """Arrays of m meshes of bodies and garments; vertices and triangles are numbered across all of them.

    sphere: center and radius around each mesh. material: row of the material table per triangle; second_material: its
    row where the interpolation of border, one number per corner, is below 0.
    """

    count: int
    mesh: wp.array(dtype=wp.uint64)
    person: wp.array(dtype=int)
    sphere: wp.array(dtype=wp.vec4)
    vertex_start: wp.array(dtype=int)
    triangle_start: wp.array(dtype=int)
    normal: wp.array(dtype=wp.vec3)
    rest: wp.array(dtype=wp.vec3)
    material: wp.array(dtype=int)
    second_material: wp.array(dtype=int)
    border: wp.array(dtype=wp.vec3)


@wp.struct
class ObstacleArrays:
    """Boxes (kind 0) and upright cylinders (kind 1): own_from_camera, half sizes, row of the material table."""

    count: int
    kind: wp.array(dtype=int)
    own_from_camera: wp.array(dtype=wp.mat44)
    half_size: wp.array(dtype=wp.vec3)
    material: wp.array(dtype=int)


@wp.struct
class EnvironmentArrays:
    """Ground, room and lights. texture arrays: (levels, size, size); levels is 0 if there is only a material."""

    world_from_camera: wp.mat44
    ground_shown: int
    ground_material: int
    ground_texture: wp.array(dtype=wp.vec3, ndim=3)
    ground_texture_size: float
    has_room: int
    room_from_world: wp.mat44
    room_half_size: wp.vec3
    wall_material: int
    ceiling_material: int
    wall_texture: wp.array(dtype=wp.vec3, ndim=3)
    wall_texture_size: float
    light_direction: wp.array(dtype=wp.vec3)
    light_color: wp.array(dtype=wp.vec3)
    light_spread: float
    sky_light: wp.vec3
    ground_light: wp.vec3
    blocker: wp.array(dtype=wp.vec4)
    pixel_angle: float


@wp.struct
class RayHit:
    """First hit of a ray. spot: rest-pose position for people, world or own position for others."""

    kind: int
    distance: float
    person: int
    material: int
    normal: wp.vec3
    spot: wp.vec3


@wp.func
def rotate_back(m: wp.mat44, v: wp.vec3):
    """Apply the inverse of a rigid transform's rotation to v."""
    return wp.vec3(
        m[0, 0] * v[0] + m[1, 0] * v[1] + m[2, 0] * v[2],
        m[0, 1] * v[0] + m[1, 1] * v[1] + m[2, 1] * v[2],
        m[0, 2] * v[0] + m[1, 2] * v[1] + m[2, 2] * v[2],
    )


@wp.func
def intersects_sphere(start: wp.vec3, direction: wp.vec3, sphere: wp.vec4, farthest: float):
    to_center = wp.vec3(sphere[0], sphere[1], sphere[2]) - start
    along = wp.dot(to_center, direction)
    miss = wp.dot(to_center, to_center) - along * along
    return miss < sphere[3] * sphere[3] and along > -sphere[3] and along - sphere[3] < farthest


@wp.func
def intersect_box(start: wp.vec3, direction: wp.vec3, half: wp.vec3):
    """Return the distances at which a ray enters (x) and leaves (y) a box around the origin; x > y if it misses."""
    enter = float(-MAX_DISTANCE_M)
    leave = float(MAX_DISTANCE_M)
    for axis in range(3):
        d = direction[axis]
        if wp.abs(d) < 1.0e-9:
            d = 1.0e-9
        first = (-half[axis] - start[axis]) / d
        second = (half[axis] - start[axis]) / d
        enter = wp.max(enter, wp.min(first, second))
        leave = wp.min(leave, wp.max(first, second))
    return wp.vec2(enter, leave)


@wp.func
def intersect_cylinder(start: wp.vec3, direction: wp.vec3, half: wp.vec3):
    """Return the distances at which a ray enters (x) and leaves (y) an upright cylinder around the origin.

    x > y if it misses.
    """
    a = wp.max(direction[0] * direction[0] + direction[1] * direction[1], 1.0e-12)
    b = start[0] * direction[0] + start[1] * direction[1]
    c = start[0] * start[0] + start[1] * start[1] - half[0] * half[0]
    root = b * b - a * c
    if root < 0.0:
        return wp.vec2(1.0, -1.0)
    dz = direction[2]
    if wp.abs(dz) < 1.0e-9:
        dz = 1.0e-9
    first = (-half[2] - start[2]) / dz
    second = (half[2] - start[2]) / dz
    enter = wp.max((-b - wp.sqrt(root)) / a, wp.min(first, second))
    leave = wp.min((-b + wp.sqrt(root)) / a, wp.max(first, second))
    return wp.vec2(enter, leave)


@wp.func
def intersect_obstacle(obstacles: ObstacleArrays, i: int, start: wp.vec3, direction: wp.vec3):
    """Return the distance along the ray to the front of obstacle i, or MAX_DISTANCE_M."""
    m = obstacles.own_from_camera[i]
    own_start = wp.transform_point(m, start)
    own_direction = wp.transform_vector(m, direction)
    span = wp.vec2(1.0, -1.0)
    if obstacles.kind[i] == 0:
        span = intersect_box(own_start, own_direction, obstacles.half_size[i])
    else:
        span = intersect_cylinder(own_start, own_direction, obstacles.half_size[i])
    if span[0] > span[1] or span[0] < MIN_DISTANCE_M:
        return MAX_DISTANCE_M
    return span[0]


@wp.func
def compute_obstacle_normal(obstacles: ObstacleArrays, i: int, spot: wp.vec3):
    """Return the outward normal, in the camera frame, at a point of the surface in the obstacle's own frame."""
    half = obstacles.half_size[i]
    share = wp.vec3(spot[0] / half[0], spot[1] / half[1], spot[2] / half[2])
    normal = wp.vec3(0.0, 0.0, wp.sign(share[2]))
    if obstacles.kind[i] == 1:
        if wp.abs(share[2]) < 0.9999:
            normal = wp.normalize(wp.vec3(spot[0], spot[1], 0.0))
    elif wp.abs(share[0]) > wp.abs(share[2]) and wp.abs(share[0]) >= wp.abs(share[1]):
        normal = wp.vec3(wp.sign(share[0]), 0.0, 0.0)
    elif wp.abs(share[1]) > wp.abs(share[2]):
        normal = wp.vec3(0.0, wp.sign(share[1]), 0.0)
    return rotate_back(obstacles.own_from_camera[i], normal)


@wp.func
def is_blocked(
    meshes: MeshArrays, obstacles: ObstacleArrays, start: wp.vec3, direction: wp.vec3, farthest: float, skip: int
):
    """Return whether anything except person `skip` is nearer than farthest."""
    for i in range(obstacles.count):
        if intersect_obstacle(obstacles, i, start, direction) < farthest:
            return True
    for i in range(meshes.count):
        if meshes.person[i] == skip or not intersects_sphere(start, direction, meshes.sphere[i], farthest):
            continue
        if wp.mesh_query_ray_anyhit(meshes.mesh[i], start, direction, farthest):
            return True
    return False


@wp.func
def intersect_meshes(meshes: MeshArrays, direction: wp.vec3, hit: RayHit):
    origin = wp.vec3(0.0, 0.0, 0.0)
    for i in range(meshes.count):
        if intersects_sphere(origin, direction, meshes.sphere[i], hit.distance):
            query = wp.mesh_query_ray(meshes.mesh[i], origin, direction, hit.distance)
            if query.result:
                a = wp.mesh_get_index(meshes.mesh[i], 3 * query.face) + meshes.vertex_start[i]
                b = wp.mesh_get_index(meshes.mesh[i], 3 * query.face + 1) + meshes.vertex_start[i]
                c = wp.mesh_get_index(meshes.mesh[i], 3 * query.face + 2) + meshes.vertex_start[i]
                w = 1.0 - query.u - query.v
                normal = query.u * meshes.normal[a] + query.v * meshes.normal[b] + w * meshes.normal[c]
                if wp.dot(query.normal, normal) < 0.0:
                    normal = -normal
                if wp.dot(query.normal, direction) > 0.0:  # sheets of cloth and hair have two sides
                    normal = -normal
                hit.kind = PERSON
                hit.distance = query.t
                hit.person = meshes.person[i]
                triangle = meshes.triangle_start[i] + query.face
                hit.material = meshes.material[triangle]
                if wp.dot(meshes.border[triangle], wp.vec3(query.u, query.v, w)) < 0.0:
                    hit.material = meshes.second_material[triangle]
                hit.normal = wp.normalize(normal)
                hit.spot = query.u * meshes.rest[a] + query.v * meshes.rest[b] + w * meshes.rest[c]
    return hit


@wp.func
def intersect_environment(environment: EnvironmentArrays, direction: wp.vec3, hit: RayHit):
    """Intersect the ray with the ground (z = 0 in the world) and the room's walls and ceiling, seen from inside."""
    m = environment.world_from_camera
    eye = wp.transform_point(m, wp.vec3(0.0, 0.0, 0.0))
    ray = wp.transform_vector(m, direction)
    if ray[2] < -1.0e-6:
        distance = -eye[2] / ray[2]
        if distance < wp.min(hit.distance, MAX_GROUND_M) and distance > MIN_DISTANCE_M:
            hit.kind = GROUND
            hit.distance = distance
            hit.material = environment.ground_material
            hit.normal = rotate_back(m, wp.vec3(0.0, 0.0, 1.0))
            hit.spot = eye + distance * ray
    if environment.has_room != 0:
        room_eye = wp.transform_point(environment.room_from_world, eye)
        room_ray = wp.transform_vector(environment.room_from_world, ray)
        leave = intersect_box(room_eye, room_ray, environment.room_half_size)[1]
        spot = room_eye + leave * room_ray
        share = wp.vec3(
            spot[0] / environment.room_half_size[0],
            spot[1] / environment.room_half_size[1],
            spot[2] / environment.room_half_size[2],
        )
        if leave < hit.distance and leave > MIN_DISTANCE_M and share[2] > -0.9999:
            normal = wp.vec3(0.0, 0.0, -1.0)
            hit.kind = CEILING
            hit.material = environment.ceiling_material
            hit.spot = spot
            if wp.abs(share[2]) < wp.max(wp.abs(share[0]), wp.abs(share[1])):
                hit.kind = WALL
                hit.material = environment.wall_material
                normal = wp.vec3(-wp.sign(share[0]), 0.0, 0.0)
                hit.spot = wp.vec3(spot[1], spot[2], spot[0])
                if wp.abs(share[1]) > wp.abs(share[0]):
                    normal = wp.vec3(0.0, -wp.sign(share[1]), 0.0)
                    hit.spot = wp.vec3(spot[0], spot[2], spot[1])
            hit.distance = leave
            hit.normal = rotate_back(m, rotate_back(environment.room_from_world, normal))
    return hit


@wp.func
def trace_ray(meshes: MeshArrays, obstacles: ObstacleArrays, environment: EnvironmentArrays, direction: wp.vec3):
    hit = RayHit()
    hit.kind = NO_HIT
    hit.distance = MAX_DISTANCE_M
    hit.person = -1
    hit.material = 0
    hit.normal = -direction
    hit.spot = wp.vec3(0.0, 0.0, 0.0)
    for i in range(obstacles.count):
        distance = intersect_obstacle(obstacles, i, wp.vec3(0.0, 0.0, 0.0), direction)
        if distance < hit.distance:
            hit.kind = OBSTACLE
            hit.distance = distance
            hit.material = obstacles.material[i]
            hit.spot = wp.transform_point(obstacles.own_from_camera[i], distance * direction)
            hit.normal = compute_obstacle_normal(obstacles, i, hit.spot)
    hit = intersect_environment(environment, direction, hit)
    # People last: no person is behind a wall, and rounding at ground contacts must favor the feet.
    if hit.kind == WALL or hit.kind == CEILING or hit.kind == GROUND:
        limit = hit.distance
        hit.distance = limit + 0.003
        on_people = intersect_meshes(meshes, direction, hit)
        if on_people.kind == PERSON:
            return on_people
        hit.distance = limit
        return hit
    return intersect_meshes(meshes, direction, hit)


@wp.kernel(enable_backward=False)
def trace_person_visibility(
    rays: wp.array(dtype=wp.vec3),
    row: int,
    meshes: MeshArrays,
    obstacles: ObstacleArrays,
    sight: wp.array(dtype=int),
):
    """Write per ray: 0 if it misses the person `row`, 1 if the person is hidden by another object, 2 if visible."""
    i = wp.tid()
    origin = wp.vec3(0.0, 0.0, 0.0)
    direction = rays[i]
    nearest = float(MAX_DISTANCE_M)
    for k in range(meshes.count):
        if meshes.person[k] == row and intersects_sphere(origin, direction, meshes.sphere[k], nearest):
            query = wp.mesh_query_ray(meshes.mesh[k], origin, direction, nearest)
            if query.result:
                nearest = query.t
    if nearest >= MAX_DISTANCE_M:
        sight[i] = 0
    elif is_blocked(meshes, obstacles, origin, direction, nearest, row):
        sight[i] = 1
    else:
        sight[i] = 2


@wp.kernel(enable_backward=False)
def compute_vertex_normals(
    points: wp.array(dtype=wp.vec3),
    triangles: wp.array(dtype=int),
    first: wp.array(dtype=int),
    around: wp.array(dtype=int),
    normals: wp.array(dtype=wp.vec3),
):
    """Compute area-weighted vertex normals; around[first[v]:first[v + 1]] are the triangles at vertex v.

    Gathers instead of scattering: sums in a fixed order give the same bytes on every run.
    """
    v = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for i in range(first[v], first[v + 1]):
        t = around[i]
        a = points[triangles[3 * t]]
        total = total + wp.cross(points[triangles[3 * t + 1]] - a, points[triangles[3 * t + 2]] - a)
    normals[v] = wp.normalize(total)
