package berka

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the data
	"fmt"
	"io"
)

//go:embed berka.csv.gz
var compressed []byte

// Data returns the CSV that this package ships: 39,385 transactions of 977 accounts, in the order of their dates.
func Data() (io.ReadCloser, error) {
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("berka.csv.gz: %w", err)
	}
	return r, nil
}
