/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * table.h - columns as wide as what is in them
 */
#ifndef TM_TABLE_H
#define TM_TABLE_H

#include <stddef.h>

struct tm_table;

/* A table with these titles; a title that starts with '>' is of a right-aligned column. The array
 * is borrowed. NULL without memory. */
struct tm_table *tm_table_new(const char *const *titles, size_t columns);

/* Add the next cell, row by row. The text is copied. */
void tm_table_add(struct tm_table *table, const char *text);

/* Print to standard output and free. */
void tm_table_print(struct tm_table *table);

#endif
