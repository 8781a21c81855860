package chdb

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// Numbers of ClickHouse's exceptions that the door raises (src/Common/ErrorCodes.cpp).
const (
	codeBadArguments     = 36
	codeNotImplemented   = 48
	codeSyntaxError      = 62
	codeUnknownFormat    = 73
	codeUnknownSetting   = 115
	codeReadonly         = 164
	codeRequiredPassword = 194
	codeTooManyQueries   = 202
	codeNetwork          = 210
	codeTooLarge         = 229
	codeCannotDecompress = 271
	codeOutfile          = 358
	codeSessionNotFound  = 372
	codeSessionLocked    = 373
	codeSessionTimeout   = 374
	codeAuthentication   = 516
	codeUnknown          = 1002
)

// codeName is ClickHouse's name of a number above.
func codeName(code int) string {
	switch code {
	case codeBadArguments:
		return "BAD_ARGUMENTS"
	case codeNotImplemented:
		return "NOT_IMPLEMENTED"
	case codeSyntaxError:
		return "SYNTAX_ERROR"
	case codeUnknownFormat:
		return "UNKNOWN_FORMAT"
	case codeUnknownSetting:
		return "UNKNOWN_SETTING"
	case codeReadonly:
		return "READONLY"
	case codeRequiredPassword:
		return "REQUIRED_PASSWORD"
	case codeTooManyQueries:
		return "TOO_MANY_SIMULTANEOUS_QUERIES"
	case codeNetwork:
		return "NETWORK_ERROR"
	case codeTooLarge:
		return "QUERY_IS_TOO_LARGE"
	case codeCannotDecompress:
		return "CANNOT_DECOMPRESS"
	case codeOutfile:
		return "INTO_OUTFILE_NOT_ALLOWED"
	case codeSessionNotFound:
		return "SESSION_NOT_FOUND"
	case codeSessionLocked:
		return "SESSION_IS_LOCKED"
	case codeSessionTimeout:
		return "INVALID_SESSION_TIMEOUT"
	case codeAuthentication:
		return "AUTHENTICATION_FAILED"
	}
	return "UNKNOWN_EXCEPTION"
}

// httpStatus follows ClickHouse's exceptionCodeToHTTPStatus (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp, 26.7).
func httpStatus(code int) int {
	switch code {
	case codeRequiredPassword:
		return http.StatusUnauthorized
	case 192, 193, 497, 512, codeAuthentication: // unknown user, wrong password, access denied, role not granted
		return http.StatusForbidden
	case codeBadArguments, 427, // regular expression
		6, 25, 26, 27, 38, 41, 72, 376, 441, 675, 676, // values that do not parse
		8, 15, 37, 44, 123, 167, 168, 223, codeSyntaxError, // columns and syntax trees
		53, 117, 321: // types and values
		return http.StatusBadRequest
	case 46, 47, 50, 56, 60, 63, codeUnknownFormat, 78, 81, codeUnknownSetting, 152, 336, 511: // unknown things
		return http.StatusNotFound
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge
	case codeNotImplemented:
		return http.StatusNotImplemented
	case 76, 209, 439: // file, socket, thread
		return http.StatusServiceUnavailable
	case 159: // time limit
		return http.StatusRequestTimeout
	}
	return http.StatusInternalServerError
}

// exception is an error with ClickHouse's number of it, raised by the engine or by the door.
type exception struct {
	code    int
	message string // "Code: 60. DB::Exception: … (UNKNOWN_TABLE)"
}

func (e *exception) Error() string { return e.message }

// newException raises an exception of the door.
func newException(code int, format string, args ...any) *exception {
	return &exception{code: code, message: fmt.Sprintf("Code: %d. DB::Exception: %s. (%s)", code, fmt.Sprintf(format, args...), codeName(code))}
}

var (
	exceptionPrefix  = regexp.MustCompile(`^Code: (\d+)\. DB::(\w*Exception): `)
	exceptionVersion = regexp.MustCompile(` \(version [0-9.]+( \([^()]*\))?\)`)
)

// engineException takes the number out of a message of the engine. The message may repeat prefix and version, once for each
// layer that it went through; one of each is enough.
func engineException(message string) error {
	first := exceptionPrefix.FindStringSubmatch(message)
	if first == nil {
		return newException(codeUnknown, "%s", message)
	}
	e := &exception{}
	_, _ = fmt.Sscan(first[1], &e.code) // digits, by the expression
	rest := message[len(first[0]):]
	for strings.HasPrefix(rest, first[0]) {
		rest = rest[len(first[0]):]
	}
	e.message = first[0] + exceptionVersion.ReplaceAllString(rest, "")
	return e
}

// asException gives every error the form of an exception.
func asException(err error) *exception {
	if e, ok := errors.AsType[*exception](err); ok {
		return e
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return newException(codeTooLarge, "The request body is too large")
	}
	return newException(codeUnknown, "%s", err)
}
