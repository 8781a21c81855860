package chdb

import (
	"errors"
	"fmt"
	"net/http"
)

// Numbers of ClickHouse's exceptions that the door raises or maps (src/Common/ErrorCodes.cpp).
const (
	codeBadArguments      = 36
	codeNotImplemented    = 48
	codeSyntaxError       = 62
	codeUnknownSetting    = 115
	codeTimeout           = 159
	codeReadonly          = 164
	codeBadQueryParameter = 457
	codeRequiredPassword  = 194
	codeTooManyQueries    = 202
	codeCannotDecompress  = 271
	codeTooManyBytes      = 307
	codeNetwork           = 210
	codeOutfile           = 358
	codeSessionNotFound   = 372
	codeSessionLocked     = 373
	codeAuthentication    = 516
	codeUnknown           = 1002
)

// newDoorError is an exception raised by the door, in the form of the engine's.
func newDoorError(code int, name, format string, args ...any) error {
	return &exception{code: code, message: fmt.Sprintf("Code: %d. DB::Exception: %s (%s)", code, fmt.Sprintf(format, args...), name)}
}

// asException gives every error the form of an exception.
func asException(err error) *exception {
	if e, ok := errors.AsType[*exception](err); ok {
		return e
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &exception{code: codeTooManyBytes, message: fmt.Sprintf("Code: %d. DB::Exception: The request body is too large (TOO_MANY_BYTES)", codeTooManyBytes)}
	}
	return &exception{code: codeUnknown, message: fmt.Sprintf("Code: %d. DB::Exception: %s (UNKNOWN_EXCEPTION)", codeUnknown, err)}
}

// httpStatus maps an exception as ClickHouse does (exceptionCodeToHTTPStatus in src/Server/HTTP/exceptionCodeToHTTPStatus.cpp).
func httpStatus(code int) int {
	switch code {
	case codeRequiredPassword:
		return http.StatusUnauthorized
	case codeAuthentication, 192, 497:
		return http.StatusForbidden
	case 6, 26, 27, 38, 41, 42, 43, 47, 53, 62, 70, 72, 115, 130, 131, 386, 440, 441, 456, 457, codeSessionLocked:
		return http.StatusBadRequest
	case 16, 46, 60, 63, 81, codeSessionNotFound:
		return http.StatusNotFound
	case codeTooManyBytes:
		return http.StatusRequestEntityTooLarge
	case codeNotImplemented:
		return http.StatusNotImplemented
	case codeTimeout:
		return http.StatusRequestTimeout
	case codeTooManyQueries:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
