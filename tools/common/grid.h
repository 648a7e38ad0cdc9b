/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * grid.h - columns as wide as what is in them
 */
#ifndef TM_GRID_H
#define TM_GRID_H

#include <stddef.h>

struct tm_grid;

/* A table with these titles; a title that starts with '>' is of a right-aligned column. The array
 * is borrowed. NULL without memory. */
struct tm_grid *tm_grid_new(const char *const *titles, size_t columns);

/* Add the next cell, row by row. The text is copied. */
void tm_grid_add(struct tm_grid *table, const char *text);

/* Print to standard output and free. */
void tm_grid_print(struct tm_grid *table);

#endif
