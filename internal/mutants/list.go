package main

// list holds every mutant of this module, in the order of the guarantees they
// belong to.
//
// A guarantee without a mutant is an intention: nothing shows that a test would
// notice its loss. To add one, break the promise by hand in the smallest way
// that a tired colleague might, name the test that fails, and write both down
// here; docs/guarantees.md quotes the table that -list prints.
var list = []Mutant{}
