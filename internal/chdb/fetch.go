package chdb

import "context"

type FetchOptions struct{}

func Fetch(ctx context.Context, o FetchOptions) (string, error) { return findLibrary() }
