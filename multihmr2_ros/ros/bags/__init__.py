"""Bags read, written and evaluated without ROS: nothing here, nor what it imports, imports rclpy or messages' packages.

The player and the recorder (`play`, `record`, and `bag_topics` of both), which need ROS, stand outside.
"""
