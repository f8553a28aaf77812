"""People in the messages that others have settled on: people_msgs, hri_msgs (REP-155) and vision_msgs.

Each is published where its package is installed; nothing here is needed by the node.
"""
