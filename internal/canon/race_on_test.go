//go:build race

package canon_test

// raceEnabled is set where sync.Pool drops values at random.
const raceEnabled = true
