//go:build race

package fusefs

// raceDetector tells that sync.Pool forgets at random.
const raceDetector = true
