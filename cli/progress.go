package cli

import (
	"fmt"
	"time"
)

// Progress returns a function that tells how far something has come, on a terminal, with rate and remaining time; and
// one that wipes it away. Where people do not watch, both do nothing. Neither is safe for concurrent use.
func (e *Env) Progress(what string) (tell func(done, total int64), end func()) {
	if !e.terminal {
		return func(int64, int64) {}, func() {}
	}
	began, last := time.Now(), time.Time{}
	tell = func(done, total int64) {
		now := time.Now()
		if done == 0 || now.Sub(last) < 100*time.Millisecond {
			return
		}
		last = now
		rate := float64(done) / max(now.Sub(began).Seconds(), 1e-3)
		line := fmt.Sprintf("\r\x1b[K%s: %d", what, done)
		if total > 0 {
			left := time.Duration(float64(max(total-done, 0)) / rate * float64(time.Second))
			line += fmt.Sprintf(" of %d, %d %%, %s left", total, min(100*done/total, 100), left.Round(100*time.Millisecond))
		}
		fmt.Fprintf(e.Stderr, "%s, %.0f/s", line, rate)
	}
	return tell, func() { fmt.Fprint(e.Stderr, "\r\x1b[K") }
}
