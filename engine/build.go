package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"runtime"
	"sync"
)

// Build names the running program: a hash of its executable, the Go version and the architecture. It is recorded with
// every decision, as another build may decide otherwise.
var Build = sync.OnceValue(func() string {
	return programHash() + "/" + runtime.Version() + "/" + runtime.GOARCH
})

func programHash() string {
	path, err := os.Executable()
	if err != nil {
		return "unknown"
	}
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer func() { _ = f.Close() }() // it was only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "unknown"
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}
