// Package docs holds the code that the documentation shows, and the tests that keep the documentation true: code
// blocks are compiled, tests that it names exist, links lead somewhere, and the formats it prints are the ones written.
package docs
