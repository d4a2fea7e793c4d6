-- A database in memory: tables, an index, joins, sorting, text functions, a transaction that is rolled back.
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, city INTEGER, born INTEGER);
CREATE TABLE city(id INTEGER PRIMARY KEY, name TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) INSERT INTO city SELECT i, 'city ' || (i * 37 % 101) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
  INSERT INTO person SELECT i, printf('person-%06d', i * 7919 % 60000), i % 50 + 1, 1900 + i % 110 FROM n;
CREATE INDEX person_by_name ON person(name);
BEGIN;
DELETE FROM person WHERE id % 3 = 0;
ROLLBACK;
SELECT count(*), min(name), max(name), sum(length(name)) FROM person;
SELECT city.name, count(*), avg(born), group_concat(substr(person.name, 8), '') LIKE '%42%' FROM person JOIN city ON city.id = person.city
  GROUP BY city.name ORDER BY 2 DESC, 1;
SELECT upper(name), born FROM person WHERE name BETWEEN 'person-010000' AND 'person-010020' ORDER BY born, name;
UPDATE person SET name = name || '-' || city WHERE id % 5 = 0;
SELECT name FROM person ORDER BY length(name) DESC, name DESC LIMIT 10;
SELECT json_group_array(json_object('id', id, 'name', name)) FROM (SELECT * FROM person WHERE id < 30);
