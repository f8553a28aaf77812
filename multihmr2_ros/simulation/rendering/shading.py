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

"""Shading in NVIDIA Warp: colors, lights and shadows at the ray hits of kernels.py."""
# mypy: ignore-errors
# ruff: noqa: E741, UP018
# Warp treats float(…) as a variable that changes in a loop, and a bare number as a constant.

import warp as wp

from multihmr2_ros.simulation.rendering.kernels import (
    GROUND,
    MAX_DISTANCE_M,
    NO_HIT,
    OBSTACLE,
    PERSON,
    WALL,
    EnvironmentArrays,
    MeshArrays,
    ObstacleArrays,
    RayHit,
    is_blocked,
    rotate_back,
    trace_ray,
)

# Shadow rays start at this distance from the surface.
SURFACE_GAP_M = wp.constant(0.008)
FOLD_SIZE_M = wp.constant(0.07)
FOLD_DEPTH = wp.constant(0.45)


@wp.func
def evaluate_pattern(kind: int, spot: wp.vec3, size: float, angle: float):
    """Return the fraction of the second color, 0 to 1, of a pattern seen along y."""
    c = wp.cos(angle)
    s = wp.sin(angle)
    x = (c * spot[0] + s * spot[2]) / size
    z = (c * spot[2] - s * spot[0]) / size
    y = spot[1] / size
    if kind == 1:
        return wp.smoothstep(-0.15, 0.15, wp.sin(6.2831853 * z))
    if kind == 2:
        return 0.5 * wp.smoothstep(-0.15, 0.15, wp.sin(6.2831853 * (x + 0.4 * y))) + 0.5 * wp.smoothstep(
            -0.15, 0.15, wp.sin(6.2831853 * z)
        )
    if kind == 3:
        dx = x - wp.floor(x) - 0.5
        dz = z - wp.floor(z) - 0.5
        return 1.0 - wp.smoothstep(0.22, 0.3, wp.sqrt(dx * dx + dz * dz))
    if kind == 4:
        state = wp.rand_init(11)
        rough = wp.noise(state, wp.vec3(x, y, z)) + 0.5 * wp.noise(state, wp.vec3(2.7 * x, 2.7 * y, 2.7 * z))
        return wp.smoothstep(-0.25, 0.25, rough)
    if kind == 5:
        return wp.clamp(0.5 + 0.2 * z * wp.min(size / 0.1, 1.0), 0.0, 1.0)
    if kind == 6:
        # The chest of the average body in Anny's rest frame; y points to the back.
        inside = wp.abs(spot[0]) < 0.11 and wp.abs(spot[2] - 0.38) < 0.10 and spot[1] < 0.0
        if inside:
            state = wp.rand_init(5)
            return wp.smoothstep(-0.1, 0.1, wp.noise(state, wp.vec3(14.0 * spot[0] + angle, 3.0, 14.0 * spot[2])) + 0.1)
    return 0.0


@wp.func
def sample_texture(texture: wp.array(dtype=wp.vec3, ndim=3), x: float, y: float, footprint: float):
    """Sample a repeated texture bilinearly; x, y and footprint in periods of the texture."""
    size = texture.shape[1]
    level = int(wp.clamp(wp.log2(wp.max(footprint * float(size), 1.0)), 0.0, float(texture.shape[0] - 1)))
    u = (x - wp.floor(x)) * float(size)
    v = (y - wp.floor(y)) * float(size)
    i = int(u) % size
    j = int(v) % size
    fu = u - wp.floor(u)
    fv = v - wp.floor(v)
    above = texture[level, j, i] * (1.0 - fu) + texture[level, j, (i + 1) % size] * fu
    below = texture[level, (j + 1) % size, i] * (1.0 - fu) + texture[level, (j + 1) % size, (i + 1) % size] * fu
    return above * (1.0 - fv) + below * fv


@wp.func
def evaluate_surface_color(
    environment: EnvironmentArrays, materials: wp.array(dtype=float, ndim=2), hit: RayHit, direction: wp.vec3
):
    """Return the albedo at a hit, averaged if a pixel is larger than the pattern."""
    footprint = hit.distance * environment.pixel_angle / wp.max(wp.abs(wp.dot(hit.normal, direction)), 0.05)
    if hit.kind == GROUND and environment.ground_texture.shape[0] > 0:
        size = environment.ground_texture_size
        return sample_texture(environment.ground_texture, hit.spot[0] / size, hit.spot[1] / size, footprint / size)
    if hit.kind == WALL and environment.wall_texture.shape[0] > 0:
        size = environment.wall_texture_size
        return sample_texture(environment.wall_texture, hit.spot[0] / size, hit.spot[1] / size, footprint / size)
    m = hit.material
    first = wp.vec3(materials[m, 0], materials[m, 1], materials[m, 2])
    kind = int(materials[m, 6])
    if kind == 0:
        return first
    second = wp.vec3(materials[m, 3], materials[m, 4], materials[m, 5])
    spot = hit.spot
    if hit.kind == GROUND or hit.kind == WALL:
        spot = wp.vec3(hit.spot[0], 0.0, hit.spot[1])
    size = materials[m, 7]
    share = evaluate_pattern(kind, spot, size, materials[m, 8])
    share = wp.lerp(share, 0.5, wp.smoothstep(0.3, 1.0, footprint / size))
    return first * (1.0 - share) + second * share


@wp.func
def compute_ambient_visibility(environment: EnvironmentArrays, point: wp.vec3, normal: wp.vec3):
    """Return the fraction of the ambient light that passes the blockers, spheres that approximate people."""
    share = float(1.0)
    for i in range(environment.blocker.shape[0]):
        sphere = environment.blocker[i]
        to_center = wp.vec3(sphere[0], sphere[1], sphere[2]) - point
        if wp.length_sq(to_center) > 100.0 * sphere[3] * sphere[3]:
            continue
        distance = wp.max(wp.length(to_center), sphere[3])
        facing = wp.max(wp.dot(normal, to_center) / distance, 0.0)
        share = share * (1.0 - 0.85 * facing * sphere[3] * sphere[3] / (distance * distance))
    return share


@wp.func
def bend_normal(normal: wp.vec3, spot: wp.vec3, folds: float):
    """Return the normal bent by the folds of a cloth."""
    state = wp.rand_init(3)
    p = spot / FOLD_SIZE_M
    bend = wp.vec3(
        wp.noise(state, p),
        wp.noise(state, p + wp.vec3(17.3, 0.0, 5.1)),
        wp.noise(state, p + wp.vec3(0.0, 31.7, 9.2)),
    )
    return wp.normalize(normal + FOLD_DEPTH * folds * bend)


@wp.func
def sample_sun_direction(environment: EnvironmentArrays, seed: int, sample: int):
    """Sample a direction within the first light's disc, which makes its shadows soft."""
    state = wp.rand_init(seed, sample)
    x = wp.randn(state) * environment.light_spread * 0.6
    y = wp.randn(state) * environment.light_spread * 0.6
    z = wp.randn(state) * environment.light_spread * 0.6
    return wp.normalize(environment.light_direction[0] + wp.vec3(x, y, z))


@wp.func
def add_lamps(environment: EnvironmentArrays, normal: wp.vec3, light: wp.vec3):
    """Add all lights except the first to `light`; only the first casts shadows."""
    for l in range(1, environment.light_direction.shape[0]):
        light = light + environment.light_color[l] * wp.max(wp.dot(normal, environment.light_direction[l]), 0.0)
    return light


@wp.func
def compute_soft_light(environment: EnvironmentArrays, kind: int, point: wp.vec3, normal: wp.vec3):
    """Return the light without shadows at a point: from the sky, off the ground and of the lamps."""
    up = rotate_back(environment.world_from_camera, wp.vec3(0.0, 0.0, 1.0))
    upward = 0.5 + 0.5 * wp.dot(normal, up)
    soft = environment.sky_light * upward + environment.ground_light * (1.0 - upward)
    if kind != PERSON:
        soft = soft * compute_ambient_visibility(environment, point, normal)
    return add_lamps(environment, normal, soft)


@wp.func
def trace_sunlight(
    meshes: MeshArrays,
    obstacles: ObstacleArrays,
    environment: EnvironmentArrays,
    hit: RayHit,
    point: wp.vec3,
    seed: int,
    sample: int,
):
    """Return 1 if a ray from a hit to the first light is unobstructed, 0 otherwise."""
    start = point + SURFACE_GAP_M * hit.normal
    if is_blocked(meshes, obstacles, start, sample_sun_direction(environment, seed, sample), MAX_DISTANCE_M, -1):
        return 0.0
    return 1.0


@wp.kernel(enable_backward=False)
def render_rays(
    rays: wp.array(dtype=wp.vec3),
    pixels: wp.array(dtype=int),
    backdrop: wp.array(dtype=wp.vec3),
    meshes: MeshArrays,
    obstacles: ObstacleArrays,
    environment: EnvironmentArrays,
    materials: wp.array(dtype=float, ndim=2),
    seed: int,
    ambient: wp.array(dtype=wp.vec3),
    direct: wp.array(dtype=wp.vec3),
    visibility: wp.array(dtype=float),
    depth: wp.array(dtype=float),
    person: wp.array(dtype=int),
    surface: wp.array(dtype=int),
):
    """Cast one ray per sample and shade its first hit.

    rays (s,) unit directions; pixels (s,) their pixels, rows of backdrop. Out: ambient and direct (s,) linear light,
    direct without occlusion of the first light; visibility (s,) 0 or 1 of that light; depth (s,) along the camera's z,
    infinite without a hit; person (s,) row or −1; surface (s,) kind and material in one number.
    """
    i = wp.tid()
    direction = rays[i]
    hit = trace_ray(meshes, obstacles, environment, direction)
    person[i] = hit.person
    surface[i] = hit.kind + 8 * hit.material
    behind = backdrop[pixels[i]]
    visibility[i] = 1.0
    if hit.kind == NO_HIT:
        depth[i] = wp.inf
        ambient[i] = behind
        direct[i] = wp.vec3(0.0, 0.0, 0.0)
        return
    depth[i] = hit.distance * direction[2]
    point = hit.distance * direction
    normal = hit.normal
    gloss = float(0.0)
    if hit.kind == PERSON or hit.kind == OBSTACLE:
        gloss = materials[hit.material, 9]
        folds = materials[hit.material, 10]
        if folds > 0.0:
            normal = bend_normal(normal, hit.spot, folds)
    soft = compute_soft_light(environment, hit.kind, point, normal)
    facing = wp.max(wp.dot(normal, environment.light_direction[0]), 0.0)
    hard = environment.light_color[0] * facing
    if facing > 0.0:
        visibility[i] = trace_sunlight(meshes, obstacles, environment, hit, point, seed, i)
    if hit.kind == GROUND and environment.ground_shown == 0:
        # The photograph shows this ground without people, so people only darken it.
        whole = add_lamps(environment, normal, environment.sky_light) + hard
        ambient[i] = wp.cw_mul(behind, wp.cw_div(soft, whole))
        direct[i] = wp.cw_mul(behind, wp.cw_div(hard, whole))
        return
    albedo = evaluate_surface_color(environment, materials, hit, direction)
    halfway = wp.normalize(environment.light_direction[0] - direction)
    shine = gloss * wp.pow(wp.max(wp.dot(normal, halfway), 0.0), 20.0 + 60.0 * gloss)
    ambient[i] = wp.cw_mul(albedo, soft)
    direct[i] = wp.cw_mul(albedo, hard) + environment.light_color[0] * shine * wp.min(1.0, 4.0 * facing)
