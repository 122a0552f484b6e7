package drivertest

import "time"

// LoseSoon has what was promised be lost if it does not come within seconds: what these tests run is in memory, and where it
// is broken it does not come at all.
func LoseSoon() { fetchLimit, waitLimit = 5*time.Second, 5*time.Second }
