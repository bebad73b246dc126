package config

var listenerSchema map[string]any
