"""Sound as samples: audio files, the STFT pair and features."""
