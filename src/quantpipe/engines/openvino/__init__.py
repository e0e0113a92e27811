"""OpenVINO on processors."""
