"""The node and everything that knows ROS. Only the files in here may import rclpy and message packages.

What is published is first described by the plain dataclasses of `content`; `cdr` turns them into serialised messages
and `messages` into Python message objects, with the same meaning.
"""
