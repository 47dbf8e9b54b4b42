// Package table writes rows in aligned columns.
package table

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Write aligns the rows below the header. Empty cells become "-". It is for buffers, whose writing cannot fail; an error of
// any other writer is lost.
func Write(w io.Writer, header []string, rows [][]string) {
	aligned := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(aligned, strings.Join(header, "\t"))
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if cells[i] = cell; cell == "" {
				cells[i] = "-"
			}
		}
		_, _ = fmt.Fprintln(aligned, strings.Join(cells, "\t"))
	}
	_ = aligned.Flush()
}
