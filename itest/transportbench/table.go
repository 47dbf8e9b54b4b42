//go:build linux

// The result, as a table.

package main

import (
	"fmt"
	"slices"
	"strings"
)

// result is all that was measured of one way.
type result struct {
	way          way
	measurements []measurement
}

// median is the middle one of the values, or the mean of the two in the middle.
func (r result) median(value func(measurement) float64) float64 {
	values := make([]float64, 0, len(r.measurements))
	for _, m := range r.measurements {
		values = append(values, value(m))
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// largest is the largest of the values.
func (r result) largest(value func(measurement) int64) int64 {
	var most int64
	for _, m := range r.measurements {
		most = max(most, value(m))
	}
	return most
}

func (r result) rate() float64 { return r.median(func(m measurement) float64 { return m.rate }) }

// table is the results in Markdown. Ways that were not measured are left out.
func table(results []result) string {
	var text strings.Builder
	text.WriteString("| | MB/s | of the pipe | CPU s/GiB: sender | receivers | NATS | sum | peak MiB: sender | receiver | NATS |\n")
	text.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	pipe := 0.0
	for _, r := range results {
		if r.way.bare() && len(r.measurements) > 0 {
			pipe = r.rate()
		}
	}
	for _, r := range results {
		if len(r.measurements) == 0 {
			continue
		}
		text.WriteString("| " + strings.Join(row(r, pipe), " | ") + " |\n")
	}
	return text.String()
}

func row(r result, pipe float64) []string {
	cells := []string{r.way.name, fmt.Sprintf("%.0f", r.rate()/1e6), ""}
	if pipe > 0 {
		cells[2] = fmt.Sprintf("%.2f", r.rate()/pipe)
	}
	if r.way.bare() {
		return append(cells, "", "", "", "", "", "", "")
	}
	seconds := func(value func(measurement) float64) string { return fmt.Sprintf("%.2f", r.median(value)) }
	mebibytes := func(value func(measurement) int64) string {
		if most := r.largest(value); most > 0 {
			return fmt.Sprintf("%d", most>>20)
		}
		return ""
	}
	receivers := ""
	if len(r.way.hosts()) > 1 {
		receivers = seconds(func(m measurement) float64 { return m.receivers })
	}
	return append(cells,
		seconds(func(m measurement) float64 { return m.sender }), receivers,
		seconds(func(m measurement) float64 { return m.server }),
		seconds(func(m measurement) float64 { return m.sender + m.receivers + m.server }),
		mebibytes(func(m measurement) int64 { return m.senderPeak }),
		mebibytes(func(m measurement) int64 { return m.receiverPeak }),
		mebibytes(func(m measurement) int64 { return m.serverPeak }))
}
