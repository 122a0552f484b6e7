package drivertest

import (
	"regexp"
	"strings"
)

// pattern returns what -run takes to run the test of a name and nothing else.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return strings.Join(parts, "$/^")
}
