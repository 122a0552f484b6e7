package posting

import "fmt"

// Number returns the account number of a customer: eight digits and two check digits, as ISO 7064 (MOD 97-10) makes them.
func Number(customer int) string {
	return fmt.Sprintf("%08d%02d", customer, 98-int64(customer)*100%97)
}

// Valid reports whether the check digits of an account number are right.
func Valid(number string) bool {
	if len(number) != 10 {
		return false
	}
	rest := 0
	for _, c := range []byte(number) {
		if c < '0' || c > '9' {
			return false
		}
		rest = (10*rest + int(c-'0')) % 97
	}
	return rest == 1
}
