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

"""The node: subscribes to images; publishes people, TF, markers and diagnostics. Managed, but activates itself.

The image callback only queues the image. A separate thread processes the newest one, so callbacks never wait for the
network, and results are never older than the processing time of two images.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds
    from .startup import exit_on_stop_signals

    exit_on_stop_signals()

import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.content import HeaderContent, LateImageFilter
from multihmr2_ros.messages.human_array import Timing
from multihmr2_ros.transform_tree import normalize_frame_name

from .diagnostics import SILENT_S, HealthMonitor, ImageCounters
from .frames import DecodedImage, FrameMaker, decode_camera_image
from .graph import describe_publishers, find_refused_subscribers
from .inputs import FIRST_IMAGE_TIMEOUT_S, SUBSCRIPTION_PARAMETERS, UPDATE_PERIOD_S, Inputs, ReceivedImage
from .managed_node import ManagedNode
from .outputs import Outputs
from .parameters import apply_changes, declare, find_unknown_parameters
from .process import run_nodes
from .restarts import EstimatorFactory, RestartingEstimator, load_estimator, make_configuration
from .worker import NewestOnlyWorker

STOP_TIMEOUT_S = 1.5  # time limit for the image in work when the node ends


@dataclass(frozen=True)
class ImageTask:
    """An image for the worker. counters: of its activation; the image is not published in a later activation."""

    received: ReceivedImage
    counters: ImageCounters


class PerceptionNode(ManagedNode):
    """The node. Several nodes in one process need different namespaces and body_prefix parameters.

    estimator_factory    creates the estimator when the node is configured
    counters             of images, of the current or last activation
    configuration_error  why the last configuration failed; None if it did not
    """

    def __init__(self, estimator_factory: EstimatorFactory = load_estimator, **options: Any) -> None:
        super().__init__("perception_node", **options)
        self._make_estimator = estimator_factory
        self.parameters = declare(self)
        for problem in find_unknown_parameters(self):
            self.get_logger().warning(problem)
        self._estimator: RestartingEstimator | None = None
        self._worker: NewestOnlyWorker[ImageTask] | None = None
        self._inputs: Inputs | None = None
        self._outputs: Outputs | None = None
        self._frames = FrameMaker(self._report)
        self._health = HealthMonitor()
        self.counters = ImageCounters()
        self.configuration_error: Exception | None = None
        self._state = "unconfigured"
        self._is_enabled = True
        self._is_reset_requested = False
        self._publishing = threading.Lock()  # so that the image being processed is not published after deactivation
        self._last_header = HeaderContent()
        self._last_time_s = 0.0
        self._late_images = LateImageFilter()
        self._last_camera_frame: str | None = None
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(
            self.parameters.diagnostics_period_s, self._on_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self.create_timer(UPDATE_PERIOD_S, self._on_update_subscriptions, clock=Clock(clock_type=ClockType.STEADY_TIME))
        if self.parameters.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    @property
    def is_active(self) -> bool:
        return self._inputs is not None

    @property
    def new_process_reason(self) -> str:
        """Reason why a new process is needed; "" if it is not."""
        estimator = self._estimator
        return estimator.explain_new_process(self.parameters.watchdog_s) if estimator is not None else ""

    # --- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            estimator = RestartingEstimator(self._make_estimator, self.parameters)
            self._outputs = Outputs(self, estimator.body, self.parameters)
        except Exception as error:  # rclpy would discard it
            self.configuration_error = error
            self._on_failure(error, "configuration", LoggingSeverity.FATAL)
            return TransitionCallbackReturn.FAILURE
        self.configuration_error = None
        self._estimator = estimator
        self._worker = NewestOnlyWorker(self._process, self._on_failure)
        self._state = "inactive"
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.counters = ImageCounters()
        self._state = "active"
        self._health.note_active()
        self._subscribe()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._leave_active()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        self._state = "finalized"
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def _subscribe(self) -> None:
        """Subscribe, and destroy previous subscriptions."""
        camera_info = None
        if self._inputs is not None:
            camera_info = self._inputs.camera_info
            self._inputs.destroy()
        self._inputs = Inputs(self, self.parameters, self._get_time_s, self._on_image, self._report, camera_info)
        self.get_logger().info(f"waiting for images on {self._inputs.image_topic}")

    def _leave_active(self, *, publishes_empty: bool = True) -> None:
        with self._publishing:
            if self._inputs is not None:
                self._inputs.destroy()
                self._inputs = None
                self._state = "inactive"
                if publishes_empty:
                    self._publish_empty()

    def close(self, *, publishes_empty: bool = True) -> bool:
        """Publish empty messages and stop all work, in any state. Return whether the worker ended in time.

        publishes_empty: false after a failure, because an empty message would state that nobody is there
        """
        self._leave_active(publishes_empty=publishes_empty)
        has_ended = self._worker is None or self._worker.stop(STOP_TIMEOUT_S)
        if self._outputs is not None:
            self._outputs.destroy()
        self._estimator = self._worker = self._outputs = None
        self._state = "unconfigured"
        return has_ended

    # --- callbacks

    def _on_image(self, received: ReceivedImage) -> None:
        counters, worker = self.counters, self._worker
        counters.last_image_s = received.steady_arrival_s
        if self._is_enabled and worker is not None:
            counters.received += 1
            replaced = worker.offer(ImageTask(received, counters))
            if replaced is not None:
                replaced.counters.replaced += 1

    def _on_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        before = self.parameters
        try:
            self.parameters = apply_changes(before, changes, is_configured=self._estimator is not None)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self.is_active and any(
            getattr(self.parameters, name) != getattr(before, name) for name in SUBSCRIPTION_PARAMETERS
        ):
            self._subscribe()
        return SetParametersResult(successful=True)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._publishing:
            if request.data and not self._is_enabled:
                self._health.note_active()
            self._is_enabled = request.data
            if self.is_active and not self._is_enabled:
                self._publish_empty()
        response.success, response.message = True, "enabled" if request.data else "disabled: images are ignored"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._is_reset_requested = True  # the worker resets, because only it uses the estimator
        response.success, response.message = True, "all tracks are reset before the next image"
        return response

    def _on_update_subscriptions(self) -> None:
        if self._inputs is not None:
            self._inputs.update_subscriptions()

    def _on_diagnostics(self) -> None:
        state = "disabled" if self._state == "active" and not self._is_enabled else self._state
        faults = [] if state == "active" else [f"the node is {state}"]
        facts = {"enabled": str(self._is_enabled).lower()} | {
            name: str(count) for name, count in self.counters.to_dict().items()
        }
        estimator, inputs, outputs = self._estimator, self._inputs, self._outputs
        if estimator is not None:
            facts |= {"device": estimator.runtime.device, "restarts": str(estimator.restarts)}
            found = estimator.find_faults(self.parameters.watchdog_s)
            faults += found
            for fault in found:
                self._report("estimator", fault, is_present=True)
        if outputs is not None:
            facts |= outputs.interfaces.facts
            faults += outputs.interfaces.faults if state == "active" else []
        if inputs is not None:
            facts |= {"images from": describe_publishers(self, inputs.image_topic)} | self._frames.facts
            if state == "active":
                faults += self._check_silence(inputs) + self._check_clock()
        for refused in find_refused_subscribers(self):
            faults.append(refused)
            self._report("subscriber", refused, is_present=True)
        notices = [self._frames.notice] if self._frames.notice and state == "active" else []
        name, stamp = self.get_fully_qualified_name(), self.get_clock().now().to_msg()
        self._diagnostics.publish(self._health.report(name, state, faults, notices, facts, stamp))

    def _check_silence(self, inputs: Inputs) -> list[str]:
        """Return missing images as a fault; log it if it persists."""
        silent_s, ever = self.counters.silent_s, self.counters.last_image_s is not None
        if ever and silent_s < SILENT_S:
            return []
        reason, is_early = inputs.explain_silence(silent_s if ever else None)
        if silent_s >= SILENT_S and not is_early:
            self._report("input", reason, is_present=True)
        return [reason]

    def _check_clock(self) -> list[str]:
        """Return and log a fault if the simulated clock stays at 0."""
        if self.get_clock().now().nanoseconds or time.monotonic() - self.counters.began_s < FIRST_IMAGE_TIMEOUT_S:
            return []
        fault = "use_sim_time is true, but /clock has no messages: time stays at 0; publish it, or unset use_sim_time"
        self._report("clock", fault, is_present=True)
        return [fault]

    # --- in the worker's thread

    def _process(self, task: ImageTask) -> None:
        """Make the frame of one image, estimate its people, publish them, and count the outcome.

        Nothing is published if the image is too old or arrived out of order, or if the node was deactivated or disabled
        meanwhile.
        """
        parameters, estimator, inputs, counters = self.parameters, self._estimator, self._inputs, task.counters
        cause = "image"
        try:
            image = decode_camera_image(task.received)
            cause = "estimator"
            if estimator is None or inputs is None or not self._is_wanted(task) or self._is_too_old(image.header):
                counters.outdated += 1
                return
            if self._is_late(image.time_s):
                counters.outdated += 1
                return
            self._reset_if_needed(estimator, inputs, image)
            frame = self._frames.make(task.received, image, inputs, parameters)
            vertices = parameters.publish_vertices or (self._outputs is not None and self._outputs.needs_vertices)
            estimator.reconfigure(make_configuration(parameters, estimator.config, vertices=vertices))
            start_s = time.perf_counter()
            people = estimator.step(frame)
            timing = Timing(image.age_at_receipt_s, time.perf_counter() - start_s, dropped_frames=counters.dropped)
            with self._publishing:
                if self._outputs is None or not self._is_wanted(task):
                    counters.outdated += 1
                    return
                self._last_header = image.header
                self._outputs.reconfigure(estimator.body, parameters)
                self._outputs.publish(frame, people, timing)
        except Exception as error:
            counters.unusable += 1
            self._on_failure(error, cause)
            return
        if frame.is_unplaced:
            counters.unplaced += 1
        else:
            counters.processed += 1
            self._health.note_processed(time.monotonic() - task.received.steady_arrival_s)
        for fault in image.faults:  # after the image is noted, because faults without processed images are an ERROR
            self._report("header", fault)

    def _is_wanted(self, task: ImageTask) -> bool:
        return self.is_active and self._is_enabled and task.counters is self.counters

    def _is_too_old(self, header: HeaderContent) -> bool:
        """Return whether the image exceeds the maximum age; report it if the node has published no people for long."""
        age_s, max_age_s = header.compute_age_s(self._get_time_s()), self.parameters.max_age_s
        is_too_old = 0 < max_age_s < age_s
        if is_too_old and self._health.is_silent:
            self._report(
                "age",
                f"all images are dropped, because they are older than max_age_s ({max_age_s:g} s; the last one: "
                f"{age_s:.1f} s): synchronize the clocks of the camera and of this computer, or increase max_age_s",
            )
        return is_too_old

    def _is_late(self, time_s: float) -> bool:
        """Return whether the image arrived out of order, after a newer one; report it."""
        is_late = self._late_images.is_late(time_s, self._last_time_s)
        if is_late:
            self._report(
                "stamp",
                f"an image was dropped, because it is {self._last_time_s - time_s:.3f} s older than the last one: "
                "images arrive out of order, or a clock was corrected",
            )
        return is_late

    def _reset_if_needed(self, estimator: RestartingEstimator, inputs: Inputs, image: DecodedImage) -> None:
        """Reset all tracks if the service was called, if time jumped back, as with a looping bag, or if the image is
        another camera's, as behind a multiplexer of topics."""
        time_s, camera_frame = image.time_s, normalize_frame_name(image.header.frame_id)
        if time_s < self._last_time_s:
            self._report("stamp", f"time jumped back by {self._last_time_s - time_s:.3f} s; tracks were reset")
            self._is_reset_requested = True
            if inputs.transforms is not None:
                inputs.transforms.clear_after_jump(self._last_time_s)
        self._last_time_s = time_s
        if self._last_camera_frame not in (None, camera_frame):
            before = self._last_camera_frame
            self._report(
                "header", f"the frame of the images changed from {before!r} to {camera_frame!r}; tracks were reset"
            )
            self._is_reset_requested = True
        self._last_camera_frame = camera_frame
        if self._is_reset_requested:
            self._is_reset_requested = False
            estimator.reset()

    def _on_failure(
        self, error: Exception, cause: str = "estimator", severity: LoggingSeverity = LoggingSeverity.WARN
    ) -> None:
        if isinstance(error, UserError):
            self._report(cause, str(error), severity=severity)
        else:
            severity = max(severity, LoggingSeverity.ERROR)
            self._report(cause, f"{error!r}", "".join(traceback.format_exception(error)), severity=severity)

    # --- shared

    def _publish_empty(self) -> None:
        """Publish empty messages, in the target frame or the last image's frame, with the current time."""
        assert self._outputs is not None
        now = self.get_clock().now().to_msg()
        self._outputs.publish_empty(
            HeaderContent(now.sec, now.nanosec, self.parameters.target_frame or self._last_header.frame_id),
            self.counters.dropped,
        )

    def _report(
        self,
        cause: str,
        text: str,
        detail: str = "",
        *,
        is_present: bool = False,
        severity: LoggingSeverity = LoggingSeverity.WARN,
    ) -> None:
        """Add a problem to the diagnostics, and log it unless it was logged recently.

        cause       identifies the problem
        text        one sentence
        detail      additional text for the log
        is_present  the caller reports the problem as long as it persists (see `HealthMonitor.note`)
        severity    of the log entry
        """
        if self._health.note(cause, text, is_present=is_present):
            _log(self.get_logger(), "\n".join(line for line in (text, detail) if line), severity)

    def _get_time_s(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)


def _log(logger: Any, text: str, severity: LoggingSeverity) -> None:
    """Log a text. Each severity needs its own line of code: rclpy raises ValueError if that of a line changes."""
    if severity >= LoggingSeverity.FATAL:
        logger.fatal(text)
    elif severity >= LoggingSeverity.ERROR:
        logger.error(text)
    else:
        logger.warning(text)


def main(args: Sequence[str] | None = None, estimator_factory: EstimatorFactory = load_estimator) -> int:
    """Run the node until SIGINT or SIGTERM, and return the exit status of `run_nodes`."""
    return run_nodes(list(sys.argv if args is None else args), lambda: PerceptionNode(estimator_factory))


if __name__ == "__main__":
    sys.exit(main())
