package idempotency

import (
	"errors"
	"fmt"
	"strings"
)

const maxKey = 255 // bytes

// want ends each complaint about a key.
const want = `; send ` + Header + `: "<a value that is unique to this request>", such as a UUID, and the same one to ask again`

// parseKey returns the key in the header's values: a string of RFC 9651, or the same text without quotes, as many
// clients send it. Both mean the same key.
func parseKey(values []string) (string, error) {
	key, err := "", errors.New("the header is missing")
	switch len(values) {
	case 0:
	case 1:
		key, err = unquote(strings.Trim(values[0], " \t"))
	default:
		err = errors.New("the header is there more than once")
	}
	switch {
	case err != nil:
	case key == "":
		err = errors.New("the key is empty")
	case len(key) > maxKey:
		err = fmt.Errorf("the key has %d bytes, which is above %d", len(key), maxKey)
	}
	if err != nil {
		return "", fmt.Errorf("%w"+want, err)
	}
	return key, nil
}

// unquote reads "text", in which a backslash stands before each quote and backslash; or text.
func unquote(s string) (string, error) {
	inner, quoted := strings.CutPrefix(s, `"`)
	if !quoted {
		if strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`"\,;`, c) }) {
			return "", errors.New(`a key with anything but letters, digits and plain signs must be in quotes`)
		}
		return s, nil
	}
	var key []byte
	for i := 0; i < len(inner); i++ {
		switch c := inner[i]; {
		case c == '"' && i == len(inner)-1:
			return string(key), nil
		case c == '\\' && i+1 < len(inner) && (inner[i+1] == '"' || inner[i+1] == '\\'):
			i++
			key = append(key, inner[i])
		case c < ' ' || c > '~' || c == '"' || c == '\\':
			return "", fmt.Errorf("the key has %q where a string of HTTP's structured fields cannot", c)
		default:
			key = append(key, c)
		}
	}
	return "", errors.New("the key's closing quote is missing")
}
