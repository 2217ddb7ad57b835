// Names and roles that the stock theme leaves out, so that a screen reader hears what a reader sees.
addEventListener("DOMContentLoaded", () => {
  const each = (selector, change) => document.querySelectorAll(selector).forEach(change);
  each('summary[aria-label="Toggle hidden content"]', (item) => item.removeAttribute("aria-label"));
  each("input.task-list-item-checkbox:not([aria-label])", (item) => item.setAttribute("aria-label", item.parentElement.textContent.trim()));
  each("table.dataframe thead th:empty", (item) => item.replaceWith(document.createElement("td")));
  each(".sidebar-primary-items__start > .sidebar-primary-item:first-child", (item) => {
    item.setAttribute("role", "navigation");
    item.setAttribute("aria-label", "Home");
  });
});
