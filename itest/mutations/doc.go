// Package mutations breaks the program on purpose, to see that the tests notice.
//
// Each [Mutation] replaces a piece of one source file by a mistake that the design exists to prevent: the cursor is moved
// before the receiver has confirmed, two claims run at the same time, a step is not protected. It is compiled in with the
// -overlay flag of the go command (go help build): the working tree stays what it is.
//
// The package's own tests see to it that every mutation still applies and compiles; one that does not says which text it no
// longer finds. ./task faults:mutations runs what has to find them, mostly the fault harness (itest/faults), and prints a table.
package mutations
