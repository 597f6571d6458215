//go:build race

package squashfs_test

const raceEnabled = true
