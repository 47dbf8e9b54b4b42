// Package imports holds the tests of the project's structure: which package may import which, how packages are named, and
// that none keeps state of its own. They read the source and the answers of go list, and run nothing else.
package imports
