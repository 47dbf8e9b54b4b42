// Command-line options as getopt(3) of the GNU C library reads them: options may follow operands.

package zfsfake

import "strings"

type option struct {
	letter   rune // '?' for an unknown option, ':' for a missing argument
	argument string
	unknown  string // of '?' and ':': the letter or the long name given
}

// getopt reads args by optstring and long names (each standing for a letter); it answers the options in order and the
// operands.
func getopt(args []string, optstring string, long map[string]rune) ([]option, []string) {
	missing := '?'
	if strings.HasPrefix(optstring, ":") {
		missing, optstring = ':', optstring[1:]
	}
	takesArgument := func(letter rune) (known, argument bool) {
		i := strings.IndexRune(optstring, letter)
		if i < 0 || letter == ':' {
			return false, false
		}
		return true, i+1 < len(optstring) && optstring[i+1] == ':'
	}
	var options []option
	var operands []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			return options, append(operands, args[i+1:]...)
		case strings.HasPrefix(arg, "--"):
			name, value, given := strings.Cut(arg[2:], "=")
			letter, known := long[name]
			if !known {
				options = append(options, option{letter: '?', unknown: arg})
				continue
			}
			if _, argument := takesArgument(letter); argument && !given {
				if i+1 == len(args) {
					options = append(options, option{letter: missing, unknown: arg})
					continue
				}
				i++
				value = args[i]
			}
			options = append(options, option{letter: letter, argument: value})
		case len(arg) > 1 && arg[0] == '-':
			for j, letter := range arg[1:] {
				known, argument := takesArgument(letter)
				if !known {
					options = append(options, option{letter: '?', unknown: string(letter)})
					continue
				}
				if !argument {
					options = append(options, option{letter: letter})
					continue
				}
				value := arg[1+j+len(string(letter)):]
				if value == "" {
					if i+1 == len(args) {
						options = append(options, option{letter: missing, unknown: string(letter)})
						break
					}
					i++
					value = args[i]
				}
				options = append(options, option{letter: letter, argument: value})
				break
			}
		default:
			operands = append(operands, arg)
		}
	}
	return options, operands
}
