package main

import "strings"

// environment is the process environment, read once in main.
type environment []string

// get returns the value of the last variable called name, or "".
func (e environment) get(name string) string {
	value, _ := e.lookup(name)
	return value
}

func (e environment) lookup(name string) (string, bool) {
	for i := len(e) - 1; i >= 0; i-- {
		if rest, ok := strings.CutPrefix(e[i], name); ok && strings.HasPrefix(rest, "=") {
			return rest[1:], true
		}
	}
	return "", false
}

// prefixes are the names under which a setting is looked for, in order.
var prefixes = [...]string{"CORACLE_", "SINGULARITY_", "APPTAINER_"}

// setting returns the first of CORACLE_key, SINGULARITY_key and APPTAINER_key
// that is set, for each of the keys in turn.
func (e environment) setting(keys ...string) (string, bool) {
	for _, prefix := range prefixes {
		for _, key := range keys {
			if value, ok := e.lookup(prefix + key); ok {
				return value, true
			}
		}
	}
	return "", false
}
