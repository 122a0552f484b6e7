package canon

import "strconv"

// appendKey appends to path the segment for an object's key: the key after a
// dot, or quoted in brackets.
func appendKey(path, key []byte) []byte {
	if !bare(key) {
		return append(appendQuoted(append(path, '['), key), ']')
	}
	return append(appendDot(path), key...)
}

// appendIndex appends to path the segment for an array's element.
func appendIndex(path []byte, i int) []byte {
	return strconv.AppendInt(appendDot(path), int64(i), 10)
}

func appendDot(path []byte) []byte {
	if len(path) == 0 {
		return path
	}
	return append(path, '.')
}

// bare reports whether key needs no quotes in a path.
func bare(key []byte) bool {
	for _, c := range key {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', digit(c), c == '_', c == '-':
		default:
			return false
		}
	}
	return len(key) > 0
}

// step is one segment of the path to a failure.
type step struct {
	key   []byte // nil for an array's element
	index int
}

// stepsPath returns the path of steps, which begin with the innermost.
func stepsPath(steps []step) string {
	var path []byte
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].key != nil {
			path = appendKey(path, steps[i].key)
		} else {
			path = appendIndex(path, steps[i].index)
		}
	}
	return string(path)
}
