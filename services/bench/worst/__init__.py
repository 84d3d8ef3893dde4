"""Every service at its worst input, under the memory limit of its manifest."""
