// Names and roles that the stock theme leaves out, so that a screen reader hears what a reader sees.
addEventListener("DOMContentLoaded", () => {
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  each('summary[aria-label="Toggle hidden content"]', (item) => item.removeAttribute("aria-label"));
  each("input.task-list-item-checkbox:not([aria-label])", (item) => item.setAttribute("aria-label", item.parentElement.textContent.trim()));
  each("table thead th", (item) => {
    if (!item.textContent.trim()) item.replaceWith(document.createElement("td"));
  });
  // A name has to hold the words that are shown, and an icon has none.
  each(".search-button-field", (item) => item.removeAttribute("aria-label"));
  each(".theme-switch-button > *", (icon) => { icon.removeAttribute("title"); icon.setAttribute("aria-hidden", "true"); });
  // Who reads without a mouse can scroll a wide table, too.
  each(".bd-article table", (table) => {
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
  });
  each(".sidebar-primary-items__start > .sidebar-primary-item:first-child", (item) => {
    item.setAttribute("role", "navigation");
    item.setAttribute("aria-label", "Home");
  });
});
