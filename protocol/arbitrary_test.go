package protocol_test

// Arbitrary messages: values of every field, for the properties that hold for all messages.

import (
	"fmt"
	"reflect"
	"time"

	"pgregory.net/rapid"
)

// arbitrary draws a value of type T with every exported field filled in. Slices and maps are nil or not empty, since the
// wire does not tell nil from empty.
func arbitrary[T any](t *rapid.T) T {
	var v T
	fill(t, reflect.ValueOf(&v).Elem(), reflect.TypeFor[T]().Name())
	return v
}

func fill(t *rapid.T, v reflect.Value, label string) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		seconds := rapid.Int64Range(-62135596800, 253402300799).Draw(t, label)
		nanoseconds := rapid.Int64Range(0, 999_999_999).Draw(t, label)
		v.Set(reflect.ValueOf(time.Unix(seconds, nanoseconds).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() {
				fill(t, v.Field(i), label+"."+field.Name)
			}
		}
	case reflect.Pointer:
		if rapid.Bool().Draw(t, label+" is there") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem(), label)
		}
	case reflect.Slice:
		length := rapid.IntRange(0, 3).Draw(t, label+" length")
		if length == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), length, length))
		for i := range length {
			fill(t, v.Index(i), fmt.Sprintf("%s[%d]", label, i))
		}
	case reflect.Map:
		for range rapid.IntRange(0, 3).Draw(t, label+" length") {
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(t, key, label+" key")
			fill(t, value, label+" value")
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString(rapid.String().Draw(t, label))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, label))
	case reflect.Int, reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, label))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		bits := 8 * v.Type().Size()
		v.SetUint(rapid.Uint64Range(0, 1<<(bits-1)-1+1<<(bits-1)).Draw(t, label))
	default:
		panic("no arbitrary value of type " + v.Type().String() + ": teach fill about it")
	}
}

// inUTC puts every time in v into UTC, where decoded times are in the local zone.
func inUTC(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			if at, ok := v.Interface().(time.Time); ok {
				v.Set(reflect.ValueOf(at.UTC()))
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				inUTC(v.Field(i))
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			inUTC(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			inUTC(v.Index(i))
		}
	default:
	}
}
