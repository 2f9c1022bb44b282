"""What a reviewer sees of a change: the rendered files, the resources, and the comment on the pull request."""
