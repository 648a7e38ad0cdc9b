/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * grid.c - columns as wide as what is in them
 *
 * All cells are kept, in one array row after row, until the widths are known.
 */
#include "tools/common/grid.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

struct tm_grid {
	const char *const *titles;
	size_t columns, cells, room;
	char **text;
};

struct tm_grid *tm_grid_new(const char *const *titles, size_t columns)
{
	struct tm_grid *table = calloc(1, sizeof(*table));

	if (table)
		*table = (struct tm_grid){.titles = titles, .columns = columns};
	return table;
}

void tm_grid_add(struct tm_grid *table, const char *text)
{
	if (!table)
		return;
	if (table->cells == table->room) {
		size_t room = table->room ? table->room * 2 : 64;
		char **grown = reallocarray(table->text, room, sizeof(*grown));

		if (!grown)
			return;
		table->text = grown;
		table->room = room;
	}
	table->text[table->cells++] = strdup(text);
}

static const char *cell(const struct tm_grid *table, size_t i)
{
	return table->text[i] ? table->text[i] : "?";
}

static void print_cell(const struct tm_grid *table, size_t column, size_t width, const char *text)
{
	const char *gap = column ? "  " : "";

	if (table->titles[column][0] == '>')
		printf("%s%*s", gap, (int)width, text);
	else if (column + 1 == table->columns)
		printf("%s%s", gap, text);
	else
		printf("%s%-*s", gap, (int)width, text);
	if (column + 1 == table->columns)
		putchar('\n');
}

void tm_grid_print(struct tm_grid *table)
{
	if (!table)
		return;
	size_t width[table->columns];

	for (size_t c = 0; c < table->columns; c++)
		width[c] = strlen(table->titles[c]) - (table->titles[c][0] == '>');
	for (size_t i = 0; i < table->cells; i++)
		width[i % table->columns] =
			TM_MAX(width[i % table->columns], strlen(cell(table, i)));

	for (size_t c = 0; c < table->columns; c++)
		print_cell(table, c, width[c], table->titles[c] + (table->titles[c][0] == '>'));
	for (size_t i = 0; i < table->cells; i++)
		print_cell(table, i % table->columns, width[i % table->columns], cell(table, i));

	for (size_t i = 0; i < table->cells; i++)
		free(table->text[i]);
	free(table->text);
	free(table);
}
