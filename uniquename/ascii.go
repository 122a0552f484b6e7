package uniquename

import "strings"

// ASCII returns the normal form of a name of ASCII letters, digits and the signs . _ - + @, in lower case. Others are
// refused with [ErrName]: white space that nobody sees, letters that look like other letters, and whatever another
// version of Unicode would make of the name. So the rule never changes, and does for handles and for most addresses.
func ASCII(name string) (string, error) {
	if name == "" {
		return "", ErrName.Because("it is empty")
	}
	for _, c := range []byte(name) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("._-+@", rune(c)) {
			return "", ErrName.Because("it has other characters than ASCII letters, digits and . _ - + @")
		}
	}
	return strings.ToLower(name), nil
}
