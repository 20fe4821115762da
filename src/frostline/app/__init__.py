"""What a person starts: the commands, the configuration, a job from it, going on after a kill."""
